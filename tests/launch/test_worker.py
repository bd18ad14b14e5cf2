"""worker.sh: one program in the background, of which the state can be asked."""

import shutil
import subprocess
import time

import pytest
from scripts import ROOT, assert_misuse, run_script

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="workers run Linux")


@pytest.fixture
def worker(tmp_path):
    """Returns a function that runs worker.sh in a checkout whose program does what it is told."""
    script = tmp_path / "ibot_jax/launch/worker.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "launch/worker.sh", script)
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\necho "called with $*"\nshift 2\neval "$1"\n')
    python.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PYTHON": str(python), "PATH": "/usr/bin:/bin"}

    def run(*arguments, **more):
        output = subprocess.run(
            [script, *arguments], env=environment | more, capture_output=True, text=True, timeout=60
        )
        assert output.returncode == 0, output
        return output.stdout.strip()

    yield run
    run("stop", STOP_SECONDS="0")


def wait_for(state, worker):
    deadline = time.monotonic() + 30
    while worker("state") != f"state: {state}":
        assert time.monotonic() < deadline, worker("state")
        time.sleep(0.05)


def test_the_programs_exit_status_and_output_are_kept(worker, tmp_path):
    assert worker("state") == "state: new"
    worker("start", "exit 7")
    wait_for("exit 7", worker)
    assert (tmp_path / "train.log").read_text() == "called with -m ibot_jax.main exit 7\n"


def test_it_runs_on_after_the_call_and_stops_with_sigterm(worker):
    worker("start", "trap 'exit 143' TERM; while :; do sleep 0.05; done")
    assert worker("state") == "state: running"
    worker("stop")
    assert worker("state") == "state: exit 143"
    worker("stop")


def test_started_again_it_lets_the_former_one_end_first(worker, tmp_path):
    body = "trap 'echo saved; exit 143' TERM; echo begun; while :; do sleep 0.05; done"
    log = tmp_path / "train.log"
    worker("start", body)
    while "begun" not in log.read_text().split():
        time.sleep(0.05)
    worker("start", "echo second")
    wait_for("exit 0", worker)
    assert log.read_text().splitlines()[-1] == "second"
    assert log.read_text().splitlines().index("saved") < len(log.read_text().splitlines()) - 1


def test_a_program_that_does_not_stop_is_killed(worker):
    worker("start", "trap '' TERM; while :; do sleep 0.05; done")
    worker("stop", STOP_SECONDS="1")
    assert worker("state") == "state: exit 137"


def test_a_program_that_died_with_its_machine_is_lost(worker, tmp_path):
    (tmp_path / "ibot_jax/.worker").mkdir(exist_ok=True)
    (tmp_path / "ibot_jax/.worker/pid").write_text("1\n")
    assert worker("state") == "state: lost"


def test_a_mistake_is_one_line():
    assert_misuse(run_script("worker.sh", "fly"), "fly is no command")
