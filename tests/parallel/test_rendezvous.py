"""Processes that come together, as threads with sockets of their own."""

import socket
import time

import pytest
from meeting import Group, free_port

from ibot_jax.errors import UserError
from ibot_jax.parallel import rendezvous


def test_all_wait_for_all_and_leave_the_port_free():
    group = Group(free_port()).come(2, 3).come(1, 3)
    time.sleep(0.3)  # before process 0
    met = dict(group.come(0, 3).met())
    assert sorted(met[0].links) == [1, 2] and sorted(met[1].links) == [0]
    assert met[0].hosts == met[1].hosts == met[2].hosts == [socket.gethostname()] * 3
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", group.port))
        listener.listen()


@pytest.mark.parametrize(
    ("comes", "words"),
    [
        ([(0, 4), (2, 4)], "processes 1, 3 of 4 did not come"),
        ([(0, 3), (1, 3), (1, 3)], "two processes, on .*--process_id=1"),
        ([(0, 3), (1, 2)], "process 1 on .*--num_processes=2, process 0 with 3"),
    ],
    ids=["missing", "twice", "another number"],
)
def test_all_that_came_hear_why_not_all_can(comes, words):
    group = Group(free_port(), seconds=2)
    for process, number in comes:
        group.come(process, number)
    for process, outcome in group.met():
        assert isinstance(outcome, UserError)
        prefix = "process 0 says: " if process else ""
        assert str(outcome).startswith(prefix)
        with pytest.raises(UserError, match=words):
            raise outcome


def test_who_comes_again_is_the_same():
    """A process that ends before all have come may start again."""
    port = free_port()
    group = Group(port).come(0, 3)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            first = socket.create_connection(("localhost", port))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    first.sendall(b'{"process": 1, "processes": 3, "host": "h"}\n')
    assert b"welcome" in first.recv(100)
    first.close()
    stranger = socket.create_connection(("localhost", port))
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert stranger.recv(100) == b""  # whoever is no process is sent away
    met = dict(group.come(1, 3).come(2, 3).met())
    assert sorted(met[0].links) == [1, 2]


def test_a_port_that_is_taken_is_named_on_both_sides(monkeypatch):
    monkeypatch.setattr(rendezvous, "_FOREIGN_SECONDS", 0.5)
    monkeypatch.setattr(rendezvous, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        met = Group(port).come(0, 2).come(1, 2).met()
    assert f"cannot listen on port {port}" in str(met[0][1])
    assert f"another program than process 0 of this run answers at port {port}" in str(met[1][1])


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid"])
def test_nobody_there_is_said_in_time(host):
    port = free_port()
    with pytest.raises(UserError, match=rf"process 1 .* cannot reach process 0 at port {port}"):
        rendezvous.enter(host, port, 2, 1, seconds=0.5)
