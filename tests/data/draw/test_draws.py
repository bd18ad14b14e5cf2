"""Draws made many at a time: the generator's numbers, each once, and whole ones alike."""

import numpy as np

from ibot_jax.data.draw.draws import Draws


def test_they_are_the_numbers_of_the_generator_in_their_order():
    draws = Draws(np.random.default_rng(3))
    assert [draws.random() for _ in range(1000)] == np.random.default_rng(3).random(1000).tolist()


def test_whole_numbers_are_all_as_likely():
    draws = Draws(np.random.default_rng(0))
    for limit in (1, 2, 7, 224):
        drawn = np.bincount([draws.integers(limit) for _ in range(20_000)], minlength=limit)
        assert len(drawn) == limit
        spread = np.sqrt(20_000 / limit * (1 - 1 / limit))
        assert (np.abs(drawn - 20_000 / limit) <= 5 * spread).all()


def test_two_of_one_seed_draw_the_same_whatever_is_asked_for():
    one, other = (Draws(np.random.default_rng(5)) for _ in range(2))
    for number in range(300):
        assert one.integers(1 + number) == other.integers(1 + number)
        assert (one.permutation(4) == other.permutation(4)).all()
        assert one.random() == other.random()
