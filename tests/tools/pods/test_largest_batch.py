"""The search for the largest batch, with made memory figures."""

import pytest

from ibot_jax.tools.pods.largest_batch import largest_batch


class Compiler:
    """Plans a step that needs 100 bytes of state, 20 more, and 7 an image; keeps what was asked.

    Attributes:
      squeezed: what it can save by computing again, in parts of the need.
      silent: never tells what a step that does not fit would need.
    """

    def __init__(self, limit, chips, squeezed=0.0, silent=False):
        self.limit, self.chips = limit, chips
        self.squeezed, self.silent = squeezed, silent
        self.asked = []

    def __call__(self, batch_size):
        self.asked.append(batch_size)
        assert batch_size % self.chips == 0
        images = 7.0 * batch_size / self.chips
        needed = max((1 - self.squeezed) * (120 + images), min(120 + images, self.limit))
        fits = needed <= self.limit
        told = fits or not self.silent
        return {
            "fits": fits,
            "memory_of_chip": self.limit,
            "batch_size": batch_size,
            "memory": {
                **{"student": 20.0, "teacher": 20.0, "moments": 60.0, "batch": images / 10},
                "temporaries": needed - 100 - images / 10 if told else None,
            },
        }


@pytest.mark.parametrize("start", [1, 4, 64, 512, 4096])
@pytest.mark.parametrize("silent", [False, True])
def test_a_few_compilations_find_it_where_memory_grows_with_the_batch(start, silent):
    compiler = Compiler(limit=1023.0, chips=4, silent=silent)  # 129 images a chip take 1023 bytes
    best, too_large = largest_batch(compiler, start, chips=4, most=10**6)
    assert best["fits"] and not too_large["fits"]
    assert 4 * (129 - 8) <= best["batch_size"] <= 4 * 129
    assert too_large["batch_size"] <= best["batch_size"] * (1 + 1 / 16)
    assert len(set(compiler.asked)) == len(compiler.asked)
    assert len(compiler.asked) <= (5 if silent else 4)


@pytest.mark.parametrize("start", [4, 64, 512, 4096])
@pytest.mark.parametrize("squeezed", [0.1, 0.4])
@pytest.mark.parametrize("silent", [False, True])
def test_a_compiler_that_computes_again_near_the_limit_costs_a_few_more(start, squeezed, silent):
    compiler = Compiler(limit=1023.0, chips=4, squeezed=squeezed, silent=silent)
    best, too_large = largest_batch(compiler, start, chips=4, most=10**6)
    largest = (1023 / (1 - squeezed) - 120) / 7
    assert best["fits"] and not too_large["fits"]
    assert best["batch_size"] <= 4 * largest < too_large["batch_size"]
    assert too_large["batch_size"] - best["batch_size"] <= max(best["batch_size"] / 16, 4)
    assert len(compiler.asked) <= (10 if silent else 7)


def test_a_step_that_never_fits_is_told():
    best, too_large = largest_batch(Compiler(limit=125.0, chips=1), 64, chips=1, most=10**6)
    assert best is None
    assert too_large["batch_size"] == 1


def test_the_data_bound_a_batch():
    compiler = Compiler(limit=1023.0, chips=4)
    best, too_large = largest_batch(compiler, 64, chips=4, most=403)
    assert best["batch_size"] == 400
    assert too_large is None
    assert compiler.asked == [64, 400]
