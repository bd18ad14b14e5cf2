"""How processes join; runs of several are tested in test_multihost.py."""

import os
import subprocess
import sys

import cli
import jax
import pytest

from ibot_jax.errors import UserError
from ibot_jax.parallel import distributed


@pytest.fixture
def joined(monkeypatch):
    """Returns the clusters that are joined, instead of doing so; no launcher's variable is set."""
    clusters = []
    monkeypatch.setattr(distributed, "_join", clusters.append)
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "PMI_", "MV2_", "TPU_", "JAX_COORD", "JOB_COMPL")):
            monkeypatch.delenv(name)
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return clusters


def slurm(monkeypatch, tasks):
    """Sets what srun sets."""
    variables = dict(JOB_ID=4096, STEP_NODELIST="a,b", NTASKS=tasks, PROCID=1, LOCALID=0)
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_flags_say_who_joins_whom(joined):
    distributed.join("10.0.0.1:1234", 4, 3)
    assert joined == [("10.0.0.1:1234", 4, 3, None)]


def test_slurm_says_who_joins_whom(joined, monkeypatch):
    slurm(monkeypatch, 2)
    distributed.join()
    ((address, number, process, devices),) = joined
    assert address.startswith("a:") and (number, process, devices) == (2, 1, [0])


def test_a_run_of_one_process_joins_nobody(joined, monkeypatch):
    distributed.join()
    distributed.join("localhost:1234", 1, 0)
    slurm(monkeypatch, 1)
    distributed.join()
    assert joined == []


@pytest.mark.parametrize(
    "variables",
    [
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},  # of Open MPI 5
        {"PMI_SIZE": "2", "PMI_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"},  # where JAX sees no TPU
        {"WORLD_SIZE": "8", "RANK": "3"},
        {"JOB_COMPLETION_INDEX": "0"},
        {"JAX_COORDINATOR_ADDRESS": "a:1"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_one_of_several_whose_others_are_not_found_does_not_run_alone(
    joined, monkeypatch, variables
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    name, value = next(iter(variables.items()))
    with pytest.raises(UserError, match=rf"one of several.* {name}={value} .*--num_processes=1"):
        distributed.join()
    assert joined == []


def test_a_shell_within_a_job_is_alone(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")  # salloc sets it; a step it is not
    distributed.join()
    assert joined == []


def test_who_has_computed_alone_joins_nobody_any_more(joined, monkeypatch):
    monkeypatch.undo()
    jax.devices()
    with pytest.raises(UserError, match="process 1 of 2 must join the others before JAX"):
        distributed.join("localhost:1234", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0), "--coordinator_address must be given, too"),
        (("a:1", None, None), "--num_processes and --process_id must be given, too"),
        (("a", 2, 0), "--coordinator_address=a must be HOST:PORT"),
        (("a:65536", 2, 0), "--coordinator_address=a:65536 must be HOST:PORT"),
        (("a:1", 0, 0), "--num_processes=0 must be above 0"),
        (("a:1", 2, 2), "--process_id=2 must lie between 0 and 1"),
        (("a:1", 2, -1), "--process_id=-1 must lie between 0 and 1"),
    ],
)
def test_a_mistake_is_named(joined, arguments, message):
    with pytest.raises(UserError, match=message):
        distributed.join(*arguments)
    assert joined == []


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "SLURM_PROCID"])
def test_a_cluster_that_cannot_be_joined_is_a_mistake(joined, monkeypatch, variable):
    slurm(monkeypatch, 2)
    monkeypatch.setenv(variable, "odd")
    with pytest.raises(UserError, match=r"cannot join its cluster .*ValueError.*'odd'"):
        distributed.join()
    assert joined == []


def test_on_a_machine_of_its_own_a_process_is_alone_and_says_nothing():
    """In a fresh process and with JAX's own detection, also in a pod that is part of no job."""
    code = (
        "import os; os.environ['KUBERNETES_SERVICE_HOST'] = '10.0.0.1';"
        "from ibot_jax.parallel import distributed; distributed.join(); import jax;"
        "print(jax.process_count(), jax.distributed.is_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cli.ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("1 False\n", "")
