"""The relay, between sockets of its own."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ibot_jax.parallel import relay


@pytest.fixture
def relayed():
    """Returns an upstream connection, and one through a relay to it; ends the relay."""
    with socket.create_server(("localhost", 0)) as upstream:
        port = upstream.getsockname()[1]
        command = [sys.executable, "-I", relay.__file__, "localhost", str(port)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        near = socket.create_connection(("127.0.0.1", int(process.stdout.readline())))
        near.settimeout(5)
        far, _ = upstream.accept()
        far.settimeout(5)
        yield near, far, process
        near.close()
        process.stdin.close()
        assert process.wait(10) == 0
        process.stdout.close()


def test_a_relay_passes_bytes_both_ways_and_hides_the_end_of_the_far_one(relayed):
    near, far, _ = relayed
    near.sendall(b"there")
    assert far.recv(10) == b"there"
    far.sendall(b"back")
    assert near.recv(10) == b"back"
    far.close()
    near.settimeout(0.5)
    with pytest.raises(TimeoutError):
        near.recv(10)


def test_a_relay_passes_on_the_end_of_the_near_one(relayed):
    near, far, _ = relayed
    near.close()
    assert far.recv(10) == b""


def test_a_relay_ends_with_its_owner():
    code = f"""
import subprocess, sys, time
command = [sys.executable, "-I", {relay.__file__!r}, "localhost", "1"]
process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pid = int(owner.stdout.readline())
    os.kill(pid, 0)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail("the relay lives on")
