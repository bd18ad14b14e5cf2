"""A run whose views become larger for its last part: sizes of a step, and going on exactly."""

import shutil

import cli
import jax
import numpy as np
import pytest
from runs import restored
from tiny import tiny_config

from ibot_jax import main
from ibot_jax.config.high_res import all_views, largest_views
from ibot_jax.config.plan import Plan
from ibot_jax.data.make.sizes import SizesByStep

PLAN = Plan(batch_size=8, steps_per_epoch=100, total_steps=4000)


def sizes_of(views):
    return [(x.global_size, x.local_size) for x in views]


def test_views_keep_their_proportions():
    config = tiny_config(data__global_size=(16, 32), data__local_size=(12, 8))
    own = ((16, 32), (12, 8))
    assert sizes_of(all_views(config.high_res, config.data)) == [own]
    config.high_res.update(last="10%", global_sides=(24, 8), local_sides=(16, 4), shares=(1.0, 1.0))
    views = all_views(config.high_res, config.data)
    assert sizes_of(views) == [own, ((24, 48), (24, 16)), ((8, 16), (6, 4))]
    assert largest_views(config.high_res, config.data) is not config.data
    assert sizes_of([largest_views(config.high_res, config.data)]) == sizes_of(views[1:2])
    assert (views[1].global_views, views[1].mean) == (2, config.data.mean)


def drawn(plan=PLAN, seed=0, **high_res):
    config = tiny_config()
    config.high_res.update(high_res)
    return SizesByStep(seed, config.data, config.high_res, plan)


@pytest.mark.parametrize(
    ("last", "start"), [("", 4000), ("100 steps", 3900), ("25%", 3000), ("100%", 0)]
)
def test_one_size_has_the_last_steps(last, start):
    sizes = drawn(last=last)
    assert [sizes.number(step) for step in range(4000)] == [0] * start + [1] * (4000 - start)
    for first in (0, 3000, 3950):
        for number in range(len(sizes.views)):
            expected = [step for step in range(first, 4000) if (step >= start) == number]
            assert list(sizes.steps(number, first)) == expected
    assert sizes.numbers() == [0] * (start > 0) + [1] * (start < 4000)
    assert sizes.numbers(3950) == [int(start < 4000)]
    assert sizes.numbers(4000) == []


def test_several_sizes_are_drawn_by_their_shares():
    three = dict(global_sides=(8, 16, 24), local_sides=(8, 8, 8), shares=(3.0, 5.0, 2.0))
    sizes = drawn(last="75%", **three)
    numbers = np.array([sizes.number(step) for step in range(4000)])
    assert not numbers[:1000].any() and numbers[1000:].all()
    for number, share in enumerate((0.3, 0.5, 0.2), 1):
        found = np.mean(numbers[1000:] == number)
        assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / 3000)
        assert list(sizes.steps(number, 500)) == np.flatnonzero(numbers == number).tolist()
    longer = drawn(Plan(8, 100, 6000), last="5000 steps", **three)
    assert [longer.number(step) for step in range(1000, 4000)] == numbers[1000:].tolist()
    other = drawn(seed=1, last="75%", **three)
    assert [other.number(step) for step in range(1000, 4000)] != numbers[1000:].tolist()


RUN = (
    "main",
    *cli.TINY,
    "--config.model.positions=rotary",
    "--config.knn.every=1 epochs",
    "--config.checkpoint.every=1 steps",
    "--config.checkpoint.keep=10",
)
LARGE = (
    "--config.data.global_size=(40,40)",
    "--config.data.local_size=(24,24)",
    "--config.knn.resize=40",
)
LATE = ("--config.high_res.global_sides=40,", "--config.high_res.local_sides=24,")


def go_on(source, workdir, step, *arguments):
    """Goes on in a copy of a workdir, from one of its checkpoints; returns the last state."""
    shutil.copytree(source, workdir)
    for later in range(step + 1, 11):
        shutil.rmtree(workdir / "checkpoints" / str(later))
    assert main.main([*RUN, f"--workdir={workdir}", *arguments]) == 0
    return restored(workdir, 10)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_it_is_the_run_that_stops_and_goes_on_with_larger_views(tmp_path, capsys):
    """Bit for bit, also where it goes on before the change, at it and after it."""
    small, late = tmp_path / "small", tmp_path / "late"
    assert main.main([*RUN, f"--workdir={small}"]) == 0
    capsys.readouterr()
    assert main.main([*RUN, f"--workdir={late}", "--config.high_res.last=40%", *LATE]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "the last 4 steps, from step 6 on: views of 40 x 40 and 24 x 24 px; evaluations stay at "
        "24 x 24 px" in told
    )
    assert cli.rows(late)[:8] == cli.rows(small)[:8]  # six steps, evaluations of 0 and 5
    same(restored(late, 6), restored(small, 6))
    final = restored(late, 10)
    same(final, go_on(small, tmp_path / "larger", 6, *LARGE, "--allow_config_change"))
    for step in (5, 6, 8):
        workdir = tmp_path / str(step)
        same(final, go_on(late, workdir, step, "--config.high_res.last=40%", *LATE))
        assert cli.rows(workdir) == cli.rows(late)


@pytest.mark.slow
def test_a_swin_takes_several_sizes_in_parts(tmp_path):
    """Views of 16, 32 and 48 px, of stages with windows of 3, and a gram teacher."""
    swin = ["arch=swin", "patch_size=4", "stage_depths=2,1", "stage_heads=2,4", "window=3"]
    swin += ["width=8", "depth=12", "heads=6"]  # of these the last two are a vit's, left alone
    sizes = ["last=60%", "global_sides=16,32,48", "local_sides=8,16,16", "shares=1.0,1.0,1.0"]
    arguments = [f"--config.model.{text}" for text in swin]
    arguments += [f"--config.high_res.{text}" for text in sizes]
    arguments += ["--config.grad_accum_steps=2", "--config.gram.weight=1", "--config.knn.every="]
    assert main.main(["main", *cli.TINY, *arguments, f"--workdir={tmp_path}"]) == 0
    assert all(row["loss"] is not None for row in cli.rows(tmp_path))
