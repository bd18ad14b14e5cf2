"""cuDNN's attention, with XLA in the place of its kernel, which runs on GPUs only."""

import jax
import numpy as np

from ibot_jax.kernels import cudnn
from ibot_jax.kernels.choice import choose
from ibot_jax.kernels.devices import Device
from ibot_jax.models.vit import ViT


def test_a_model_computes_the_same_with_it(monkeypatch):
    called = []

    def on_cpu(*args, implementation, **kwargs):
        called.append(implementation)
        return attention(*args, implementation="xla", **kwargs)

    attention = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", on_cpu)
    monkeypatch.setitem(cudnn._KNOWN, "dtype", ("float32",))  # which shows more
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    plain = ViT(
        patch_size=4, width=16, depth=3, heads=2, mlp_ratio=4.0, layer_scale=0.0, grid=(4, 4)
    )
    fused = plain.clone(kernels=choose("auto", Device("gpu", capability=8.0)))
    variables = plain.init(jax.random.key(0), images)
    variables = jax.tree.map(lambda x: x * 3, variables)  # attention that is far from uniform
    outputs = (model.apply(variables, images) for model in (fused, plain))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *outputs)
    assert called == ["cudnn"] * 3
    maps = [m.apply(variables, images, method="attention") for m in (fused, plain)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), *maps)
