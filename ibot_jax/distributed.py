"""Several processes: how they find each other before JAX's first call, and how they part."""

import os
import socket
import sys
import time
import warnings

import jax

from ibot_jax.errors import UserError
from ibot_jax.watchdog import Watchdog

_JOIN_SECONDS = 300  # pods start minutes apart
_WAIT_SECONDS = 30  # before a process says that it is still waiting for the others to join
# After so long without a sign of life a process counts as dead, which ends all others.
_HEARTBEAT_SECONDS = 60
_LINGER_SECONDS = 2
# The number of tasks as the launchers that JAX knows name it.
_TASK_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# What JAX says where it finds no cluster, and in a program that has begun to compute alone.
_ALONE = ("coordinator_address should be defined", "must be called before")


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run, if there are several.

    Without arguments, JAX is asked to find them: on Cloud TPU and GKE, under SLURM and Open MPI.
    Where it finds nothing, and in a job of one task, this process is alone and nothing happens.

    Args:
      coordinator_address: HOST:PORT of the first process.
      num_processes: of the run.
      process_id: of this one, from 0 on.

    Raises:
      UserError: if some arguments are given and others not, or they make no sense.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        _check(coordinator_address, num_processes, process_id)
        if num_processes > 1:
            _initialize(
                coordinator_address,
                coordinator_address=coordinator_address,
                num_processes=num_processes,
                process_id=process_id,
                cluster_detection_method="deactivate",
            )
    elif len(missing) < len(given):
        raise UserError(
            f"{' and '.join(missing)} must be given, too, or none of {', '.join(given)}"
        )
    # JAX would lend a task of these launchers one GPU, though it is alone.
    elif {os.environ[name] for name in _TASK_COUNTS if name in os.environ} != {"1"}:
        _detect()


def leave_failed() -> None:
    """Ends this process with status 1, if it is one of several; a lone one ends in its own way.

    Nothing is waited for: threads that save may wait for other processes for minutes. The first
    process leaves last, for its end is the end of the others, who are about to report the failure.
    """
    if jax.process_count() == 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_LINGER_SECONDS)
    os._exit(1)


def _check(address: str, num_processes: int, process_id: int) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator_address={address} must be HOST:PORT, as in 10.0.0.1:1234")
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes} must be above 0")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id} must lie between 0 and {num_processes - 1}")


def _detect() -> None:
    if "JOB_COMPLETION_INDEX" not in os.environ:  # in Kubernetes, but no part of a larger job
        warnings.filterwarnings("ignore", "Kubernetes environment detected")
    try:
        _initialize("the coordinator that JAX detected")
    except (ValueError, RuntimeError) as error:
        if not any(text in str(error) for text in _ALONE):
            raise UserError(
                f"{socket.gethostname()} cannot join the cluster that JAX detects ({error}); give "
                "--coordinator_address, --num_processes and --process_id; --num_processes=1 runs "
                "alone"
            ) from error


def _initialize(where: str, **settings) -> None:
    # SIGTERM is ours: the loop saves and ends.
    jax.config.update("jax_enable_preemption_service", False)
    with Watchdog(_WAIT_SECONDS).waiting(f"the other processes to join at {where}"):
        jax.distributed.initialize(
            **settings,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
