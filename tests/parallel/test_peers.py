"""Processes that watch each other, as threads with sockets of their own."""

import queue
import socket
import threading
import time

import pytest
from meeting import Group, free_port

from ibot_jax.parallel import peers


class Ended(BaseException):
    """Ends a watching thread, as the end of the process would."""


@pytest.fixture
def watched(monkeypatch):
    """Returns a function that makes N processes watch each other; and (process, text, status)."""
    monkeypatch.setattr(threading, "excepthook", lambda raised: None)  # of `Ended`
    monkeypatch.setattr(peers, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(peers, "SILENCE_SECONDS", 2)
    monkeypatch.setattr(peers, "_PARTING_SECONDS", 1)
    monkeypatch.setattr(peers, "_SEND_SECONDS", 0.2)
    ends = queue.Queue()

    def watch(number, silent=()):
        group = Group(free_port())
        for process in range(number):
            group.come(process, number)
        joined = dict(group.met())

        def end(process, text, status):
            ends.put((process, text, status))
            raise Ended

        watching = {
            process: peers.Peers(each, lambda *args, process=process: end(process, *args))
            for process, each in joined.items()
            if process not in silent
        }
        return joined, watching

    return watch, ends


def told(ends, count):
    return sorted(ends.get(timeout=20) for _ in range(count))


@pytest.mark.parametrize("dead", [0, 1])
def test_a_process_that_dies_is_named_by_all_others(watched, dead):
    watch, ends = watched
    joined, _ = watch(3, silent=[dead])
    for link in joined[dead].links.values():
        link.close()
    others = [process for process in range(3) if process != dead]
    for process, (number, text, status) in zip(others, told(ends, 2), strict=True):
        assert (number, status) == (process, 1)
        assert text.startswith(f"process {dead} on ") and "ended without a word" in text
    assert ends.empty()


@pytest.mark.parametrize("silent", [0, 2])
def test_a_process_that_says_nothing_is_named_by_all_others(watched, silent):
    watch, ends = watched
    joined, _ = watch(3, silent=[silent])
    for _, text, status in told(ends, 2):
        assert status == 1
        assert text.startswith(f"process {silent} on ") and "no sign of life for 2 s" in text
    if silent:  # and it hears so, should it wake
        assert {"gone": 2} in [{k: m[k] for k in m if k == "gone"} for m in heard(joined[2])]


def heard(joined):
    messages = []
    while not any("gone" in message for message in messages):
        messages += joined.links[0].receive()
    return messages


@pytest.mark.parametrize("leaver", [0, 1])
def test_who_ends_alone_is_named_with_the_reason(watched, leaver):
    watch, ends = watched
    _, watching = watch(2)
    watching[leaver].leave(1, "no space left")
    ((process, text, status),) = told(ends, 1)
    assert (process, status) == (1 - leaver, 1)
    assert text.startswith(f"process {leaver} on ") and text.endswith("status 1: no space left")


def test_all_that_leave_say_nothing_of_each_other(watched):
    watch, ends = watched
    joined, watching = watch(3)
    for process in (1, 0, 2):
        watching[process].leave(1, "all know it")
        time.sleep(0.1)
    for link in joined[0].links.values():
        link.connection.shutdown(socket.SHUT_RDWR)
    assert told(ends, 3) == [(process, "", 1) for process in range(3)]


def test_who_completes_may_leave_long_before_the_others(watched):
    watch, ends = watched
    joined, watching = watch(2)
    watching[1].leave(0)
    joined[1].links[0].connection.shutdown(socket.SHUT_RDWR)
    assert told(ends, 1) == [(1, "", 0)]
    with pytest.raises(queue.Empty):
        ends.get(timeout=2.5)
