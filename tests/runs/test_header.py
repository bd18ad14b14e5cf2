"""The lines that say what is about to run."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.config.flat import flatten
from ibot_jax.config.plan import Plan
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.header import header, suggested_momentum


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
