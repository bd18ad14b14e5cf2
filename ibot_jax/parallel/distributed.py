"""Several processes: how they find each other before JAX's first call, and how they leave."""

import os
import pathlib
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax._src import xla_bridge
from jax._src.clusters import ClusterEnv  # the public function cannot tell "alone" from a mistake

from ibot_jax.errors import UserError
from ibot_jax.parallel import peers, relay, rendezvous
from ibot_jax.parallel.processes import is_first
from ibot_jax.parallel.watchdog import Watchdog

_WAIT_SECONDS = 30  # before a process says that it is still waiting for the others to join
# JAX's own limits, which end a process with a stack trace: `peers` comes first.
_JAX_SECONDS = 10 * peers.SILENCE_SECONDS
_SHUTDOWN_SECONDS = 60
_LINGER_SECONDS = 2
# So long after an error that may be the consequence of another process's end, that is looked for.
_VERDICT_SECONDS = 5
# Launchers' numbers of processes, by name, some with a variable without which it says nothing:
# inside `salloc`, say, a program that srun has not started is alone.
_LAUNCHED = {
    "SLURM_NTASKS": "SLURM_STEP_NODELIST",
    "OMPI_COMM_WORLD_SIZE": None,
    "PMI_SIZE": None,
    "MV2_COMM_WORLD_SIZE": None,
    "WORLD_SIZE": "RANK",
}

_peers: peers.Peers | None = None
_relay: subprocess.Popen | None = None


class _Cluster(NamedTuple):
    """Who joins whom; as the arguments of jax.distributed.initialize."""

    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: Sequence[int] | None = None


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run, if there are several.

    Without arguments, JAX is asked to find them: on Cloud TPU and GKE, under SLURM and Open MPI.
    Where it finds nothing, and in a job of one task, this process is alone and nothing happens.

    From then on each process watches the others, and ends when one of them is gone (see `peers`).

    Args:
      coordinator_address: HOST:PORT of the first process.
      num_processes: of the run.
      process_id: of this one, from 0 on.

    Raises:
      UserError: if some arguments are given and others not, or they make no sense; if this process
        is one of several and cannot join them, or they do not come within five minutes.
    """
    if jax.distributed.is_initialized():
        return
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        _check(coordinator_address, num_processes, process_id)
        if num_processes > 1:
            _join(_Cluster(coordinator_address, num_processes, process_id))
    elif len(missing) < len(given):
        raise UserError(
            f"{' and '.join(missing)} must be given, too, or none of {', '.join(given)}"
        )
    elif (cluster := _detect()) is not None:
        _join(cluster)


def tell(status: int, error: Exception | None = None) -> None:
    """Tells the other processes, if there are any, that this one is about to end.

    Args:
      status: with which it ends.
      error: why. If it came of another one, it may be the consequence of another process's end;
        then this one ends here, in the name of that process.
    """
    if _peers is None:
        return
    if error is not None and error.__cause__ is not None:
        time.sleep(_VERDICT_SECONDS)
    _peers.leave(status, "" if error is None else str(error))


def leave(status: int) -> bool:
    """Is called last, with the exit status; returns whether there are other processes.

    Where a run failed the first process leaves last, as the others hear of each other through it.
    """
    tell(status)
    if _peers is None:
        return False
    if status and is_first():
        time.sleep(_LINGER_SECONDS)
    return True


def _check(address: str, num_processes: int, process_id: int) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator_address={address} must be HOST:PORT, as in 10.0.0.1:1234")
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes} must be above 0")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id} must lie between 0 and {num_processes - 1}")


def _detect() -> _Cluster | None:
    """Returns what JAX finds of a cluster; None if this process is alone.

    Raises:
      UserError: if it is not alone, but cannot join the others.
    """
    counts = {
        name: os.environ[name]
        for name, other in _LAUNCHED.items()
        if name in os.environ and (other is None or other in os.environ)
    }
    if set(counts.values()) == {"1"}:
        return None  # JAX would lend a task of these launchers one GPU, though it is alone
    if "JOB_COMPLETION_INDEX" not in os.environ:  # in Kubernetes, but no part of a larger job
        warnings.filterwarnings("ignore", "Kubernetes environment detected")
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, None, rendezvous.JOIN_SECONDS
        )
    except Exception as error:  # of environment variables, of metadata servers, of Kubernetes
        raise _stranded(f"({type(error).__name__}: {error})") from error
    if None not in found[:3]:
        return _Cluster(*found)
    several = [f"{name}={value}" for name, value in counts.items()]
    several += [
        f"{name}={os.environ[name]}"
        for name in ("JOB_COMPLETION_INDEX", "JAX_COORDINATOR_ADDRESS")
        if name in os.environ
    ]
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    several += [f"TPU_WORKER_HOSTNAMES={hosts}"] if "," in hosts else []
    if several:
        raise _stranded(f"as one of several, which {' and '.join(several)} says it is")
    return None


def _stranded(why: str) -> UserError:
    return UserError(
        f"this process on {socket.gethostname()} cannot join its cluster {why}; give "
        "--coordinator_address, --num_processes and --process_id; --num_processes=1 with the other "
        "two runs alone"
    )


def _join(cluster: _Cluster) -> None:
    """Waits for the other processes, watches them from then on, and starts JAX.

    Raises:
      UserError: on all that come, if not all can join.
    """
    global _peers
    address, number, process, _ = cluster
    if xla_bridge.backends_are_initialized():
        if number == 1:
            return
        raise UserError(
            f"process {process} of {number} must join the others before JAX computes or looks for "
            "devices; take that out of the config file, or of the program that calls this one"
        )
    # SIGTERM is ours: the loop saves and ends.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_check_proxy_envs", False)  # it would warn of what is mended below
    host, _, port = address.rpartition(":")
    if number > 1:
        with Watchdog(_WAIT_SECONDS).waiting(f"the other processes to join at {address}"):
            if process == 0:
                joined = rendezvous.gather(int(port), number)
            else:
                joined = rendezvous.enter(host.strip("[]"), int(port), number, process)
        _peers = peers.Peers(joined, peers.end_process)
        # Past what the environment says of proxies, which are for other hosts.
        excepted = os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", ""))  # noqa: SIM112
        os.environ["no_grpc_proxy"] = ",".join(filter(None, [excepted, "127.0.0.1"]))  # noqa: SIM112
        nearby = port if process == 0 else _start_relay(host.strip("[]"), port)
        cluster = cluster._replace(coordinator_address=f"127.0.0.1:{nearby}")
    jax.distributed.initialize(
        **cluster._asdict(),
        cluster_detection_method="deactivate",
        initialization_timeout=rendezvous.JOIN_SECONDS,
        heartbeat_timeout_seconds=_JAX_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )


def _start_relay(host: str, port: str) -> int:
    """Starts what keeps JAX from ending this process as soon as process 0 ends; returns its port.

    It ends with this process, whose end of its standard input closes.
    """
    global _relay
    _relay = subprocess.Popen(
        [sys.executable, "-I", str(pathlib.Path(relay.__file__)), host, port],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # signals to the group are this process's
    )
    return int(_relay.stdout.readline())
