"""The lines that say what is about to run."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.config.flat import flatten
from ibot_jax.config.plan import Plan
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.reporting.header import header, suggested_momentum


def test_momenta_are_those_that_the_original_and_its_authors_give():
    """0.996 is published for 1,024 images, 0.9995 suggested for 256; none gets less."""
    long = 1_000_000
    assert suggested_momentum(1024, long) == pytest.approx(0.996)
    assert suggested_momentum(256, long) == pytest.approx(0.9995)
    assert suggested_momentum(4096, long) == pytest.approx(0.996)
    assert suggested_momentum(512, long) == pytest.approx(0.9986)
    assert suggested_momentum(256, 10_000) == pytest.approx(0.999)
    assert suggested_momentum(8, 1) == pytest.approx(0.996)


@pytest.mark.parametrize(("batch_size", "suggested"), [(256, "suggested"), (1024, None)])
def test_it_has_the_scaled_rate_and_for_small_batches_a_momentum(batch_size, suggested, tmp_path):
    flat = flatten(tiny_config(batch_size=batch_size, optim__lr=5e-4))
    params = {"backbone": np.zeros(3), "head": np.zeros(2)}
    mesh = make_mesh(jax.devices()[:1])
    plan = Plan(batch_size, 5000, 1_000_000)
    words = dict(data="d", evaluation="e", start="s", kernels="k")
    lines = header(flat, plan, params, mesh, **words, workdir=tmp_path)
    rate, teacher = (
        next(line for line in lines if line.startswith(f"  {name} "))
        for name in ("rate", "teacher")
    )
    assert f"{5e-4 * batch_size / 256:g} (optim.lr 0.0005 x {batch_size} / 256)" in rate
    assert "momentum 0.996" in teacher
    hint = "suggested for this batch and length: teacher_momentum 0.9995"
    assert (hint in teacher) == bool(suggested)
    assert any(f"steps of {batch_size} images" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        (
            dict(optim__lr_scaling="sqrt"),
            "rate",
            "0.001 (optim.lr 0.0005 x sqrt(1024 / 256)), then down to 1e-06",
        ),
        (dict(optim__lr_scaling="none"), "rate", "0.0005 (optim.lr 0.0005), then down to 1e-06"),
        (
            dict(optim__schedule="constant"),
            "rate",
            "0.002 (optim.lr 0.0005 x 1024 / 256), constant",
        ),
        (
            dict(optim__schedule="constant", optim__cooldown="10%", optim__layer_decay=0.9),
            "rate",
            "constant; down to 1e-06 in the last 100 steps; x 0.9 from layer to layer below",
        ),
        (dict(optim__rates="head: 0.1"), "rate", "then down to 1e-06; head: 0.1"),
        (
            dict(optim__freeze="*/a: 40 steps; */b: 100%"),
            "frozen",
            "3.00 M parameters until step 40, 2.00 M parameters to the end (*/a: 40 "
            "steps; */b: 100%)",
        ),
        (
            dict(optim__freeze="*/a: 5%; */b: 20%"),
            "frozen",
            "3.00 M parameters until step 50, 2.00 M parameters until step 200, then none",
        ),
    ],
    ids=str,
)
def test_it_says_what_rates_and_freezing_are(changes, name, words, tmp_path):
    flat = flatten(tiny_config(batch_size=1024, **{"optim__lr": 5e-4, **changes}))
    sizes = {"a": 1, "b": 2, "c": 3}
    backbone = {name: jax.ShapeDtypeStruct((n, 10**6), "float32") for name, n in sizes.items()}
    params = {"backbone": backbone, "head": {}}
    mesh = make_mesh(jax.devices()[:1])
    about = dict(data="d", evaluation="e", start="s", kernels="k")
    lines = header(flat, Plan(1024, 10, 1000), params, mesh, **about, workdir=tmp_path)
    (line,) = [line for line in lines if line.startswith(f"  {name} ")]
    assert words in line


def test_it_says_nothing_of_freezing_where_there_is_none(tmp_path):
    params = {"backbone": np.zeros(3), "head": np.zeros(2)}
    about = dict(data="d", evaluation="e", start="s", kernels="k")
    mesh = make_mesh(jax.devices()[:1])
    plan = Plan(8, 10, 1000)
    lines = header(flatten(tiny_config()), plan, params, mesh, **about, workdir=tmp_path)
    assert not any(line.startswith("  frozen") for line in lines)
