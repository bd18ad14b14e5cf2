"""Sizes that cannot fit are told before anything compiles."""

import pathlib
import resource
import subprocess
import sys

import cli
import jax
import pytest
import recipes
from tiny import tiny_config, tiny_plan

from ibot_jax.config import flatten, host
from ibot_jax.runs import memory
from ibot_jax.runs.training import make_init

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vits16", 21_666_048 + 7_614_720),  # backbone and head of the published checkpoints
        ("vitb16", 85_799_424 + 8_401_152),
        ("vitl16", 303_302_656 + 8_925_440),
    ],
)
def test_parameters_are_counted_without_a_model(name, published):
    assert sum(memory.num_parameters(flatten(recipes.load(CONFIGS, name))).values()) == published


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(model__layer_scale=1e-5, model__mlp_ratio=2.5),
        dict(head__shared=False, head__shared_teacher=False, head__patch_prototypes=20),
        dict(
            head__separate=True,
            head__shared=False,
            head__shared_teacher=False,
            head__patch_hidden_dim=10,
            head__patch_bottleneck_dim=6,
            head__norm_last_layer=False,
            head__weight_norm=False,
        ),
        dict(data__global_size=(16, 32), data__channels=1, data__mean=(0.5,), data__std=(0.5,)),
    ],
)
def test_they_are_those_of_the_model(changes):
    config = tiny_config(**changes)
    state = jax.eval_shape(make_init(config, tiny_plan(config)), jax.random.key(0))
    made = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert sum(memory.num_parameters(flatten(config)).values()) == made


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(head__prototypes=10**12, head__patch_prototypes=10**12), "head.prototypes=1000000"),
        (dict(head__hidden_dim=10**7), "head.hidden_dim=10000000, "),
        (dict(model__width=10**7), "model.width=10000000, "),
        (dict(data__global_size=(80000, 80000), knn__resize=80000), "data.global_size=(80000, 800"),
        (dict(data__local_size=(80000, 80000), data__local_views=9), "data.local_size=(80000, 800"),
        (dict(batch_size=10**7, data__global_size=(512, 512), knn__resize=512), "batch_size=1000"),
        (dict(knn__resize=10**8), "knn.resize=100000000"),
        (dict(knn__batch_size=10**7, data__global_size=(512, 512), knn__resize=512), "knn.batch_"),
    ],
    ids=str,
)
def test_what_is_too_large_is_named_with_its_memory_and_what_there_is(changes, named, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 16 * 2**30)
    assert not list(memory.memory_problems(flatten(tiny_config())))
    (problem,) = memory.memory_problems(flatten(tiny_config(**changes)))
    assert named in problem
    assert "this host has 16 GiB" in problem


@pytest.mark.parametrize(("limit", "fits"), [(2**30, False), (2**50, True)])
def test_accelerators_tell_what_they_have(limit, fits, monkeypatch):
    class Device:
        platform, device_kind = "gpu", "Great GPU"

        def memory_stats(self):
            return {"bytes_limit": limit}

    monkeypatch.setattr(memory.jax, "local_devices", lambda: [Device()])
    monkeypatch.setattr(memory, "host_memory", lambda: 2**50)
    config = tiny_config(head__prototypes=10**8, head__patch_prototypes=10**8)  # 18 GB of state
    problems = list(memory.memory_problems(flatten(config)))
    assert len(problems) == (not fits)
    assert fits or "a Great GPU has 1 GiB; lower head.prototypes" in problems[0]


def test_the_largest_views_of_a_run_count(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 16 * 2**30)
    sides = dict(high_res__global_sides=(16, 80000), high_res__local_sides=(8, 16))
    config = tiny_config(high_res__last="1 steps", high_res__shares=(1.0, 1.0), **sides)
    (problem,) = memory.memory_problems(flatten(config))
    assert problem.startswith(
        "high_res.global_sides=(16, 80000), data.global_views=2, batch_size=8"
    )


def test_a_frozen_network_counts(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 4 * 2**30)
    flat = flatten(tiny_config(frozen__teacher="large.npz"))
    assert not list(memory.memory_problems(flat, {"teacher": 10**8}))  # 0.4 GB on each of 8 devices
    (problem,) = memory.memory_problems(flat, {"teacher": 10**9})
    assert "frozen.teacher='large.npz': the run takes 29.8 GiB" in problem
    assert problem.endswith(
        "give a smaller one, or spread it over devices (mesh.fsdp, mesh.tensor)"
    )


def test_a_mesh_spreads_the_state():
    config = tiny_config(head__prototypes=10**6, head__patch_prototypes=10**6)
    whole, part = (
        sum(need.size for need in memory.device_needs(flatten(config), 8) if need.what == "state")
        for config.mesh.fsdp in (1, 8)
    )
    assert part == pytest.approx(whole / 8, rel=1e-6)


def test_limits_of_the_process_count(monkeypatch):
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: type("", (), {"available": 2**50}))
    monkeypatch.setattr(host, "_CGROUP_LIMITS", ())
    assert host.host_memory() == 2**50
    limits = (2**45, resource.RLIM_INFINITY)
    monkeypatch.setattr(host.resource, "getrlimit", lambda kind: limits)
    used = host.psutil.Process().memory_info().vms
    assert host.host_memory() == pytest.approx(2**45 - used, rel=0.01)


@pytest.mark.slow
def test_the_command_line_tells_it_in_one_line(tmp_path):
    arguments = ["--config.data.global_size=(80000,80000)", "--config.knn.resize=80000"]
    command = [sys.executable, "-m", "ibot_jax.main", *cli.TINY, *arguments]
    command += [f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=cli.ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: data.global_size=(80000, 80000), ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
