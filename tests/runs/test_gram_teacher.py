"""The gram teacher of a run: what it is in which step, kept beside the checkpoints."""

import json
import shutil

import cli
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from runs import restored
from tiny import tiny_config, tiny_plan

from ibot_jax import main
from ibot_jax.config.anchor import updated_at
from ibot_jax.errors import UserError
from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training
from ibot_jax.runs.gram_teacher import GramTeacher


@pytest.mark.parametrize(
    ("start", "every", "most", "given", "expected"),
    [
        (3, 0, 0, False, [None] * 3 + [3] * 7),
        (3, 0, 0, True, [None] * 10),
        (3, 2, 0, False, [None] * 3 + [3, 3, 5, 5, 7, 7, 9]),
        (3, 2, 2, True, [None] * 5 + [5, 5, 7, 7, 7]),
        (0, 4, 1, False, [0] * 4 + [4] * 6),
    ],
)
def test_what_it_is_follows_from_the_step(start, every, most, given, expected):
    found = [updated_at(step, start, every, most, given=given) for step in range(10)]
    assert found == expected


def gram_teacher(folder, given=None, **keys):
    config = tiny_config(gram__weight=1.0, **{f"gram__{key}": x for key, x in keys.items()})
    plan, mesh = tiny_plan(config), make_mesh(jax.devices()[:1])
    layout = training.state_layout(config, plan, mesh)
    state = training.jit_init(config, plan, mesh)(jax.random.key(0))
    return GramTeacher(config.gram, plan, epath.Path(folder), layout, given), state


def test_it_is_read_again_where_it_was_kept_and_never_silently_another(tmp_path):
    gram, state = gram_teacher(tmp_path, start="2 steps")
    assert gram(1, state) == {} == gram.shapes(1)
    kept = jax.device_get(gram(2, state)["gram"]["backbone"])
    expected = jax.device_get(teacher_params(state)["backbone"])
    jax.tree.map(np.testing.assert_array_equal, kept, expected)
    other = state.replace(opt_state=jax.tree.map(lambda x: x * 0, state.opt_state))
    for teacher in (gram, gram_teacher(tmp_path, start="2 steps")[0]):
        again = teacher(3, other)["gram"]["backbone"]
        jax.tree.map(np.testing.assert_array_equal, again, expected)
    shutil.rmtree(tmp_path / "frozen/gram-2")
    with pytest.raises(UserError, match="gram-2 cannot be read .*restore it"):
        gram_teacher(tmp_path, start="2 steps")[0](3, other)


def test_a_given_one_stays_until_the_teacher_takes_its_place(tmp_path):
    given = {"backbone": "weights"}
    gram, state = gram_teacher(tmp_path, given, start="1 steps", every="3 steps")
    assert gram(0, state) == {}
    assert gram(1, state) == gram(3, state) == {"gram": given} == gram.shapes(3)
    assert gram(4, state)["gram"] is not given
    assert sorted(path.name for path in (tmp_path / "frozen").iterdir()) == ["gram-4"]


@pytest.mark.slow
def test_a_run_goes_on_with_the_gram_teacher_that_it_had(tmp_path, capsys):
    """Bit for bit, from before its start, between updates, and at an update."""
    arguments = [
        "main",
        *cli.TINY,
        "--config.gram.weight=2",
        "--config.gram.start=3 steps",
        "--config.gram.every=3 steps",
        "--config.gram.updates=1",
        "--config.knn.every=",
        "--config.log_every=1 steps",
        "--config.checkpoint.every=1 steps",
        "--config.checkpoint.keep=10",
    ]
    left_alone = tmp_path / "left_alone"
    assert main.main([*arguments, f"--workdir={left_alone}"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2 x gram loss from step 3, with the teacher of step 3 at 48 x 48 px" in told
    assert "the teacher takes its place every 3 steps, 1 times" in told
    assert {path.name for path in (left_alone / "frozen").iterdir()} == {"gram-3", "gram-6"}
    with ocp.PyTreeCheckpointer() as checkpointer:
        kept = checkpointer.restore(left_alone / "frozen/gram-6")
    teacher = restored(left_alone, 6)["teacher"]
    jax.tree.map(np.testing.assert_array_equal, kept["backbone"], teacher["backbone"])
    lines = [json.loads(line) for line in (left_alone / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["gram_loss"] for line in lines if "gram_loss" in line}
    assert [losses[step] > 0 for step in range(1, 11)] == [False] * 3 + [True] * 7
    final = restored(left_alone, 10)
    for step in (2, 5, 6):
        workdir = tmp_path / str(step)
        shutil.copytree(left_alone, workdir)
        for later in range(step + 1, 11):
            shutil.rmtree(workdir / "checkpoints" / str(later))
        assert main.main([*arguments, f"--workdir={workdir}"]) == 0
        assert f"resumed at step {step}" in capsys.readouterr().out
        jax.tree.map(np.testing.assert_array_equal, restored(workdir, 10), final)
