"""Several processes on this machine, each with its share of eight virtual devices."""

import os
import re
import socket
import subprocess
import sys

import cli
import quick

DEVICES = 8

# The CPU's collectives announce themselves on stdout, piece by piece from every device's thread,
# so that one announcement may stand in the middle of another.
ANNOUNCEMENT = re.compile(
    r"\[Gloo\] Rank | is connected to "
    r"| peer ranks\. Expected number of connected peer ranks is : "
)


def without_announcements(text):
    """`text` without the lines, whole or torn, of `ANNOUNCEMENT` and its numbers."""
    lines = (ANNOUNCEMENT.sub("", line) for line in text.splitlines(True))
    return "".join(line for line in lines if not re.fullmatch(r"\d*\n?", line))


class Run:
    """The processes of one run, started together."""

    def __init__(self, count, *arguments, folders=None, module="ibot_jax.main"):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment = {
            key: value for key, value in os.environ.items() if "proxy" not in key.lower()
        }
        environment |= {
            "PYTHONPATH": f"{cli.ROOT}{os.pathsep}{cli.ROOT / 'tests'}",
            "XLA_FLAGS": quick.flags(DEVICES // count),
            "JAX_PLATFORMS": "cpu",
        }
        self.processes = []
        for index in range(count):
            joining = [
                f"--coordinator_address=localhost:{port}",
                f"--num_processes={count}",
                f"--process_id={index}",
            ]
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, *joining],
                cwd=folders[index] if folders else cli.ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.processes.append(process)

    def finish(self):
        """Waits for all; returns exit statuses, and what each wrote to stdout and stderr."""
        done = [cli.finish(process) for process in self.processes]
        outs = [without_announcements(out) for _, out, _ in done]
        return [status for status, _, _ in done], outs, [err for _, _, err in done]
