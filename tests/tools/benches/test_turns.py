"""Sides have turns, and each round begins with another one."""

from ibot_jax.tools.benches.turns import in_turns


def test_each_round_begins_with_another_side():
    heard = []

    def side(name):
        def turn():
            heard.append(name)
            return float(len(heard))

        return turn

    found = in_turns({name: side(name) for name in "abc"}, rounds=4)
    assert "".join(heard) == "abc" + "bca" + "cab" + "abc"
    assert found == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}
