"""One table says which kernels compute what XLA does; here with others in the kernels' places."""

import json

import jax.numpy as jnp
import pytest

from ibot_jax.kernels import packing
from ibot_jax.kernels.attention import attention
from ibot_jax.kernels.branch import branch
from ibot_jax.kernels.choice import IMPLEMENTATIONS
from ibot_jax.kernels.colors import apply_colors
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import colors as tpu_colors
from ibot_jax.kernels.tpu import mlp as tpu_mlp
from ibot_jax.tools import bench
from ibot_jax.tools.benches import check


@pytest.fixture
def definitions(monkeypatch):
    """Puts the definitions in the kernels' places: interpreted ones take long."""

    def xla_branch(x, params, gains, spec, device):
        return branch(x, params, spec, gains=gains)

    def xla_attention(query, key, value, biases, spec, device):
        return attention(query, key, value, biases, spec)

    def xla_colors(views, colors, spec, device):
        return apply_colors(views, colors, spec.max_blur_radius)

    for module in (tpu_attention_branch, tpu_mlp):
        monkeypatch.setattr(module, "branch", xla_branch)
    monkeypatch.setattr(tpu_attention, "attention", xla_attention)
    monkeypatch.setattr(tpu_colors, "apply_colors", xla_colors)


def test_all_kernels_are_in_the_table_and_one_that_deviates_fails(
    definitions, monkeypatch, tmp_path, capsys
):
    right = tpu_mlp.branch
    monkeypatch.setattr(tpu_mlp, "branch", lambda x, *args: right(x, *args) + jnp.ones((), x.dtype))
    path = tmp_path / "table.json"
    assert bench.main(["check", f"--json={path}"]) == 1
    rows = json.loads(path.read_text())
    verdicts = {(row["kernel"], row["dtype"]): row["verdict"] for row in rows}
    assert {name for name, _ in verdicts} == {
        n for names in IMPLEMENTATIONS.values() for n in names
    }
    assert verdicts.pop(("tpu.mlp", "bfloat16")) == "REFUSED: its values deviate from XLA's"
    assert verdicts.pop(("cudnn", "")) == "not checked: for a GPU"
    for name in ("tpu.attention", "tpu.long_attention", "tpu.attention_branch", "tpu.mlp"):
        assert verdicts.pop((name, "float32")) == "not taken in this dtype: XLA computes"
    assert set(verdicts.values()) == {"agrees"}
    out = capsys.readouterr().out
    assert "cpu: kernels for TPUs are interpreted here, at small shapes" in out
    assert "\n2 refused; " in out


@pytest.mark.slow
def test_on_a_chip_the_published_shapes_are_compared():
    device = Device("tpu", "TPU v5 lite", partitioned=False)
    uses = check._published_uses(device, ("small", "large"), batch=64)
    shapes = {(name, check.shape_of(spec)) for name, spec in uses}
    for width in (384, 1024):
        assert ("tpu.attention_branch", (64, 200, width)) in shapes
        assert ("tpu.attention_branch", (88, 112, width)) in shapes  # three local views each
        assert ("tpu.mlp", (64 * 200, width)) in shapes
        assert ("packing", (256, 37, width)) in shapes
        assert ("tpu.long_attention", (8, 1032, width)) in shapes
    assert ("tpu.colors", (64, 224, 224, 3)) in shapes
    packed = {spec.owners for name, spec in uses if name == "tpu.attention" and spec.tokens == 112}
    assert packed == {packing.owners(37)}
    gpu = Device("gpu", "NVIDIA H100", 9.0, partitioned=False)
    uses = check._published_uses(gpu, ("small",), batch=64)
    found = {(name, *check.shape_of(spec)) for name, spec in uses}
    assert found == {("cudnn", *of, 384) for of in ((64, 197), (256, 37), (8, 1025))}


def test_a_size_that_is_not_known_is_a_mistake(capsys):
    assert bench.main(["check", "--sizes=enormous"]) == 2
    assert "--sizes=enormous is none of tiny, small, " in capsys.readouterr().err
