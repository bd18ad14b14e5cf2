"""Worker processes: signals to the group do not stop them, the end of their owner does."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ibot_jax.data.make.workers import Workers
from ibot_jax.data.sources.folders import read_file
from ibot_jax.errors import TrainingError
from ibot_jax.parallel.signals import SIGNALS


class Halve:
    """A task that halves even numbers."""

    def blank(self):
        return (np.zeros(2, np.int64),)

    def __call__(self, out, number):
        print("this must not reach the replies")
        out[0][:] = number // 2, os.getpid()
        if number % 2:
            raise ValueError(f"{number} is odd")


class Modules:
    """A task that reads a file and tells which heavy modules that took."""

    def blank(self):
        return (np.zeros(2, np.int64),)

    def __call__(self, out, url):
        heavy = {"tensorflow", "tensorflow_datasets", "jax"} & set(sys.modules)
        out[0][:] = len(read_file(url)), len(heavy)


def made(workers, requests):
    """Returns the one array of a task, as it is made of these requests, errors and notes."""
    place, (array,) = workers.batches.take()
    return array[: len(requests)], *workers(requests, place)


@pytest.fixture
def workers(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)  # workers inherit it, and find the task
    workers = Workers(Halve(), count=1, rows=3)
    yield workers
    workers.close()


def test_rows_are_made_elsewhere_and_failures_are_named(workers):
    array, errors, _ = made(workers, [(4,), (5,), (6,)])
    assert array[:, 0].tolist() == [2, 0, 3]
    assert errors == {1: "ValueError: 5 is odd"}
    assert array[0, 1] != os.getpid()


def test_workers_read_urls_without_tensorflow(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    (tmp_path / "file").write_bytes(b"seven b")
    pool = Workers(Modules(), count=1, rows=1)
    array, errors, _ = made(pool, [(f"file://{tmp_path}/file",)])
    pool.close()
    assert errors == {} and array.tolist() == [[7, 0]]


def test_what_was_returned_stays_as_it_is(workers):
    first, *_ = made(workers, [(4,), (6,), (8,)])
    second, *_ = made(workers, [(10,)])
    assert first[:, 0].tolist() == [2, 3, 4]
    assert second[:, 0].tolist() == [5]


def test_requests_fill_their_rows_of_the_batch_and_no_other(workers):
    place, (array,) = workers.batches.take()
    array[...] = 7
    assert workers([(4,), (5,)], place, row=1) == ({1: "ValueError: 5 is odd"}, {})
    assert array[0].tolist() == [7, 7]
    assert array[1:, 0].tolist() == [2, 0]


def test_a_closed_pool_leaves_no_file_and_no_memory():
    def count():
        gc.collect()
        mapped = Path("/proc/self/maps").read_text().count("ibot_jax (deleted)")
        return len(os.listdir("/proc/self/fd")), mapped

    before = count()
    pool = Workers(Halve(), count=2, rows=3)
    assert count() > before
    pool.close()
    del pool
    assert count() == before


class Sleep(Halve):
    """A task that does not come back, as from a file system that hangs."""

    def __call__(self, out, number):
        time.sleep(1000)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["as they start", "as they wait"])
def test_signals_to_the_group_are_left_to_the_owner(workers, number, moment):
    if moment == "as they wait":
        made(workers, [(4,)])
    (worker,) = psutil.Process().children()
    worker.send_signal(number)
    time.sleep(0.1)
    assert made(workers, [(8,)])[0][0, 0] == 4


def test_a_closed_pool_says_so(workers):
    made(workers, [(4,)])
    workers.close()
    with pytest.raises(TrainingError, match="code -9"):
        made(workers, [(4,)])


@pytest.mark.parametrize("task", ["Halve", "Sleep"])
def test_workers_end_when_their_owner_is_killed(task):
    code = f"""
import psutil, threading, time
from test_workers import {task}
from ibot_jax.data.make.workers import Workers
workers = Workers({task}(), count=1, rows=3)
place, arrays = workers.batches.take()
threading.Thread(target=workers, args=([(4,)], place), daemon=True).start()
time.sleep(1)
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(60)
"""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    )
    worker = Path("/proc") / owner.stdout.readline().decode().strip()
    assert worker.exists()
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
