"""A run that is killed, told to stop, and resumed is the run that was left alone, bit for bit."""

import os
import shutil
import signal

import cli
import jax
import numpy as np
import pytest
from runs import restored

from ibot_jax import main

# 80 steps; saved every 4, so that epochs, evaluations and checkpoints do not coincide.
ARGUMENTS = (
    *cli.TINY,
    "--config.duration=16 epochs",
    "--config.checkpoint.every=4 steps",
    "--config.knn.every=7 epochs",
    "--config.log_every=2 steps",
)
LAST = 80


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    """Returns the workdir of a run from start to end."""
    workdir = tmp_path_factory.mktemp("left_alone")
    status, _, err = cli.finish(cli.start(*ARGUMENTS, f"--workdir={workdir}"))
    assert status == 0, err
    return workdir


@pytest.mark.slow
def test_a_run_killed_stopped_and_resumed_is_the_same_run(left_alone, tmp_path):
    arguments = (*ARGUMENTS, f"--workdir={tmp_path}")

    process = cli.start(*arguments)
    cli.wait_for_step(tmp_path, 8, process)
    process.send_signal(signal.SIGKILL)
    assert cli.finish(process)[0] == -signal.SIGKILL

    seen = 8
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
        process = cli.start(*arguments)
        cli.wait_for_step(tmp_path, seen + 12, process)
        os.killpg(process.pid, number)  # workers, too
        code, out, err = cli.finish(process)
        assert code == status, err
        (line,) = [x for x in err.splitlines() if not x.startswith("warning: at step")]
        assert line.startswith(f"{number.name}: the run saves and ends")
        assert list(tmp_path.glob(".lock.json")) == []
        assert f"{number.name}: stopped and saved at step" in out
        assert "resumed at step" in out
        stopped = int(out.rsplit("saved at step ", 1)[1].split()[0])
        assert seen + 12 <= stopped < LAST
        assert (tmp_path / "checkpoints" / str(stopped)).is_dir()
        seen = stopped

    status, out, err = cli.finish(cli.start(*arguments))
    assert status == 0, err
    assert f"resumed at step {seen}" in out
    jax.tree.map(
        np.testing.assert_array_equal, restored(tmp_path, LAST), restored(left_alone, LAST)
    )
    assert cli.rows(tmp_path) == cli.rows(left_alone)


@pytest.mark.slow
def test_evaluations_leave_a_run_as_it_is(left_alone, tmp_path):
    arguments = (*ARGUMENTS, "--config.knn.every=", f"--workdir={tmp_path}")
    status, _, err = cli.finish(cli.start(*arguments))
    assert status == 0, err
    jax.tree.map(
        np.testing.assert_array_equal, restored(tmp_path, LAST), restored(left_alone, LAST)
    )
    rows = cli.rows(left_alone)
    evaluations = [row for row in rows if "feature_rank" in row]
    assert [row["step"] for row in evaluations] == [0, 35, 70, 80]
    assert cli.rows(tmp_path) == [row for row in rows if row not in evaluations]


@pytest.mark.slow
def test_a_finished_run_says_so_and_changes_nothing(left_alone, capsys):
    before = (left_alone / "metrics.jsonl").read_bytes()
    assert main.main(["main", *ARGUMENTS, f"--workdir={left_alone}"]) == 0
    out = capsys.readouterr().out
    assert "the run is complete" in out
    assert "% at initialisation" in out
    assert (left_alone / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_another_config_is_refused_with_its_keys_named(left_alone, capsys):
    arguments = [
        "main",
        *ARGUMENTS,
        "--config.optim.lr=0.5",
        "--config.data.global_scale=0.3,1.0",
        "--config.log_every=9 steps",  # may differ: it changes no parameter
        f"--workdir={left_alone}",
    ]
    assert main.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "optim.lr was 0.008, now 0.5" in err
    assert "data.global_scale was [0.7, 1.0], now [0.3, 1.0]" in err
    assert "log_every" not in err
    assert "--allow_config_change" in err


@pytest.mark.slow
def test_a_run_goes_on_with_another_config_where_that_is_allowed(left_alone, tmp_path, capsys):
    """The config of now is recorded: the next time it is the one that fits."""
    workdir = tmp_path / "copy"
    shutil.copytree(left_alone, workdir)
    changed = ["main", *ARGUMENTS, "--config.duration=17 epochs", f"--workdir={workdir}"]
    assert main.main(changed) == 2
    assert main.main([*changed, "--allow_config_change"]) == 0
    assert main.main(changed) == 0
    assert "the run is complete" in capsys.readouterr().out
