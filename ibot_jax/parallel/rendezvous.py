"""How the processes of a run come together before JAX starts.

Process 0 waits at its port for all others, so that whoever is missing, comes twice or finds another
program there is named. Then it leaves the port to JAX and keeps the connections.
"""

import dataclasses
import errno
import selectors
import socket
import time

from ibot_jax.errors import UserError
from ibot_jax.parallel.links import Link, Message

JOIN_SECONDS = 300  # pods start minutes apart
# So long another program may answer in the place of process 0: its former run may be ending.
_FOREIGN_SECONDS = 10
_ANSWER_SECONDS = 5
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Joined:
    """What a process knows when all have come.

    Attributes:
      process: its number.
      hosts: the name of each process's host.
      links: to the others, by their number: process 0 has all, the others that to process 0.
    """

    process: int
    hosts: list[str]
    links: dict[int, Link]


def gather(port: int, num_processes: int, seconds: float = JOIN_SECONDS) -> Joined:
    """Waits, as process 0, for all others to come.

    Args:
      port: on which they look for it.
      num_processes: of the run.
      seconds: after which it gives up.

    Raises:
      UserError: on all that have come, if the port is taken, a number comes twice or too few come.
    """
    try:
        listener = _listen(port, num_processes)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of {socket.gethostname()} ({error.strerror}); "
            "end what does, or give another port by --coordinator_address"
        ) from error
    links: dict[int, Link] = {}
    hosts = {0: socket.gethostname()}
    try:
        with listener:
            _await(listener, num_processes, links, hosts, time.monotonic() + seconds)
    except UserError as error:
        for link in links.values():
            link.send({"stop": str(error)})
        raise
    names = [hosts[process] for process in range(num_processes)]
    for link in links.values():
        link.send({"go": names})
    return Joined(0, names, links)


def _listen(port: int, backlog: int) -> socket.socket:
    """Returns a socket that listens at all addresses of this host, as JAX will."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog
            )
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is built in, and turned off
                raise
    return socket.create_server(("", port), backlog=backlog)


def _await(
    listener: socket.socket,
    num_processes: int,
    links: dict[int, Link],
    hosts: dict[int, str],
    deadline: float,
) -> None:
    """Fills links and hosts by the process's number."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        while len(hosts) < num_processes:
            for key, _ in waiting.select(_POLL_SECONDS):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    connection.settimeout(_ANSWER_SECONDS)
                    waiting.register(Link(connection), selectors.EVENT_READ)
                    continue
                link = key.fileobj
                try:
                    for message in link.receive():
                        _welcome(message, link, num_processes, links, hosts)
                except (EOFError, ValueError):  # it has left, or is no process of a run
                    waiting.unregister(link)
                    link.close()
                    for process in [p for p, other in links.items() if other is link]:
                        del links[process], hosts[process]
            if time.monotonic() > deadline:
                missing = [str(p) for p in range(num_processes) if p not in hosts]
                raise UserError(
                    f"process{'' if len(missing) == 1 else 'es'} {', '.join(missing)} of "
                    f"{num_processes} did not come to port {listener.getsockname()[1]} of "
                    f"{hosts[0]} in time; start all with the same --coordinator_address and "
                    "--num_processes, and let their hosts reach that port"
                )


def _welcome(
    message: Message,
    link: Link,
    num_processes: int,
    links: dict[int, Link],
    hosts: dict[int, str],
) -> None:
    if "process" not in message:
        return
    process, number, host = (message.get(key) for key in ("process", "processes", "host"))
    if number != num_processes:
        links[-1] = link
        raise UserError(
            f"process {process} on {host} was started with --num_processes={number}, process 0 "
            f"with {num_processes}; start all with the same"
        )
    if process in hosts:
        links[-1] = link
        raise UserError(
            f"two processes, on {hosts[process]} and {host}, were started with "
            f"--process_id={process}; give each its own, from 0 on"
        )
    link.send({"welcome": 0})
    links[process], hosts[process] = link, host


def enter(
    host: str, port: int, num_processes: int, process: int, seconds: float = JOIN_SECONDS
) -> Joined:
    """Waits, as another process than 0, for process 0 and all others to come.

    Args:
      host: of process 0.
      port: of process 0.
      num_processes: of the run.
      process: the number of this one.
      seconds: after which it gives up.

    Raises:
      UserError: if process 0 cannot be reached or gives up, or another program answers there.
    """
    deadline = time.monotonic() + seconds
    foreign_since, reason = None, "nobody answers"
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection((host, port), timeout=_ANSWER_SECONDS)
        except OSError as error:
            foreign_since, reason = None, error.strerror or str(error)
            time.sleep(_POLL_SECONDS)
            continue
        link = Link(connection)
        link.send({"process": process, "processes": num_processes, "host": socket.gethostname()})
        try:
            hosts = _wait_for_go(link, deadline + _ANSWER_SECONDS)
        except EOFError:  # it may come again
            foreign_since, reason = None, "it left while the others were coming"
            time.sleep(_POLL_SECONDS)
        except ValueError:
            foreign_since = foreign_since or time.monotonic()
            if time.monotonic() - foreign_since > _FOREIGN_SECONDS:
                raise UserError(
                    f"another program than process 0 of this run answers at port {port} of {host}; "
                    "end it, or give another port by --coordinator_address"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return Joined(process, hosts, {0: link})
        link.close()
    raise UserError(
        f"process {process} on {socket.gethostname()} cannot reach process 0 at port {port} of "
        f"{host} ({reason}); start it, and let this host reach that port, or mend "
        "--coordinator_address"
    )


def _wait_for_go(link: Link, deadline: float) -> list[str]:
    """Returns the hosts of all processes.

    Raises:
      EOFError: if the other end has left.
      ValueError: if it is not process 0 of a run.
      UserError: if process 0 gives up.
    """
    welcome = False
    while time.monotonic() < deadline:
        try:
            messages = link.receive()
        except EOFError:
            if welcome:
                raise
            break
        if not messages and not welcome:
            break
        for message in messages:
            welcome |= "welcome" in message
            if "stop" in message:
                raise UserError(f"process 0 says: {message['stop']}")
            if "go" in message:
                return message["go"]
    raise ValueError("no answer") if not welcome else EOFError("no answer")
