"""Scaling over pods: how many images each step has, what is kept, and the table of it."""

import json

import pytest

from ibot_jax.errors import UserError
from ibot_jax.tools.pods import scaling


def test_weak_scaling_gives_each_chip_as_many_images_and_strong_all_pods():
    assert scaling.batch_sizes("weak", 64, [4, 64, 512]) == [64, 1024, 8192]
    assert scaling.batch_sizes("strong", 64, [4, 64, 512]) == [64, 64, 64]
    with pytest.raises(UserError, match="--batch-size=6 is no multiple of the first pod's 4 chips"):
        scaling.batch_sizes("weak", 6, [4, 64])


def report(chips, seconds=None, link_seconds=0.0):
    """Returns what a step of 16 images a chip takes."""
    found = {"chips": chips, "fits": seconds is not None}
    if seconds is None:
        return found
    times = dict(step_seconds=seconds, link_seconds=link_seconds, mfu_bound=0.25 / seconds)
    return found | times | {"images_per_second": 16 * chips / seconds}


def pod(chips, **other):
    mesh = dict(data=chips, fsdp=1, tensor=1)
    return {"config": "c", "topology": f"v:{chips}", "mesh": mesh, "batch_size": 16 * chips} | other


def test_a_row_that_is_there_is_not_compiled_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    compiled = []

    def compile_pod(pod):
        compiled.append(pod["mesh"]["data"])
        if pod["mesh"]["data"] == 16 and len(compiled) == 2:
            raise KeyboardInterrupt
        return report(pod["mesh"]["data"], 0.5)

    pods = [pod(4), pod(16), pod(64)]
    with pytest.raises(KeyboardInterrupt):
        list(scaling.compiled_rows(pods, compile_pod, path))
    rows = list(scaling.compiled_rows(pods, compile_pod, path))
    assert compiled == [4, 16, 16, 64]
    assert [row["chips"] for row in rows] == [4, 16, 64]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    list(scaling.compiled_rows([pod(4, jax="another")], compile_pod, path))
    assert compiled[4:] == [4]


def test_efficiency_is_the_speed_of_a_chip_over_that_on_the_first_pod_that_fits():
    pods = [pod(1), pod(4), pod(16)]
    reports = [report(1), report(4, 0.5), report(16, 0.8, 0.3)]
    rows = [one | two for one, two in zip(pods, reports, strict=True)]
    assert [" ".join(line.split()[4:]) for line in scaling.table(rows).splitlines()[1:]] == [
        "does not fit",
        "500.00 ms 0.00 ms 32.0 a chip 100.0 % 50.0 %",
        "800.00 ms 300.00 ms 20.0 a chip 62.5 % 31.2 %",
    ]
