"""How processes join; runs of several are tested in test_multihost.py."""

import subprocess
import sys

import cli
import pytest

from ibot_jax import distributed
from ibot_jax.errors import UserError


@pytest.fixture
def joined(monkeypatch):
    """Returns what JAX is told to initialise with, instead of doing so."""
    calls = []
    monkeypatch.setattr(
        distributed.jax.distributed, "initialize", lambda **settings: calls.append(settings)
    )
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_flags_say_who_joins_whom(joined):
    distributed.join("10.0.0.1:1234", 4, 3)
    assert joined[0]["coordinator_address"] == "10.0.0.1:1234"
    assert (joined[0]["num_processes"], joined[0]["process_id"]) == (4, 3)


def test_a_run_of_one_process_joins_nobody(joined, monkeypatch):
    distributed.join("localhost:1234", 1, 0)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    distributed.join()
    assert joined == []
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")  # mpirun in a job of one task
    distributed.join()
    assert len(joined) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0), "--coordinator_address must be given, too"),
        (("a:1", None, None), "--num_processes and --process_id must be given, too"),
        (("a", 2, 0), "--coordinator_address=a must be HOST:PORT"),
        (("a:1", 0, 0), "--num_processes=0 must be above 0"),
        (("a:1", 2, 2), "--process_id=2 must lie between 0 and 1"),
        (("a:1", 2, -1), "--process_id=-1 must lie between 0 and 1"),
    ],
)
def test_a_mistake_is_named(joined, arguments, message):
    with pytest.raises(UserError, match=message):
        distributed.join(*arguments)
    assert joined == []


def test_a_cluster_that_cannot_be_joined_is_a_mistake(joined, monkeypatch):
    def initialize(**settings):
        raise RuntimeError("no permission to look at pods")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=r"no permission.*--num_processes=1 runs alone"):
        distributed.join()


def test_on_a_machine_of_its_own_a_process_is_alone_and_says_nothing():
    """In a fresh process and with JAX's own detection, also in a pod that is part of no job."""
    code = (
        "import os; os.environ['KUBERNETES_SERVICE_HOST'] = '10.0.0.1';"
        "from ibot_jax import distributed; distributed.join(); import jax;"
        "print(jax.process_count(), jax.distributed.is_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cli.ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("1 False\n", "")
