"""Arrays that are still in a file: read when they are asked for, one at a time."""

import tracemalloc

import numpy as np
import pytest
from foreign_weights import convert, failure, safetensors_bytes

from ibot_jax.config import host
from ibot_jax.weights.deferred import Deferred, mapped, split

WIDTH, DEPTH = 384, 6
SHAPES = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}


def counted(array):
    """Returns a deferred array, and a list that grows each time it is read."""
    reads = []
    return Deferred(array.shape, array.dtype, lambda: reads.append(1) or array), reads


def test_nothing_is_read_before_it_is_asked_for():
    array = np.arange(12, dtype=np.float32).reshape(6, 2)
    there, reads = counted(array)
    assert (there.size, there.nbytes) == (12, 48)
    turned = mapped(lambda x, y: np.concatenate([x, y]).T, there, array)
    upper, lower = split(there, 2)
    assert not reads
    assert (turned.shape, turned.dtype, lower.shape) == ((2, 12), np.float32, (3, 2))
    np.testing.assert_array_equal(turned, np.concatenate([array, array]).T)
    np.testing.assert_array_equal(upper, array[:3])
    np.testing.assert_array_equal(lower, array[3:])
    assert len(reads) == 3
    assert isinstance(mapped(np.transpose, array), np.ndarray)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Returns a file of a ViT of 43 MB, whose largest tensor has 2.4 MB."""
    tensors = {
        "cls_token": np.zeros((1, 1, WIDTH), "f"),
        "pos_embed": np.zeros((1, 197, WIDTH), "f"),
        "patch_embed.proj.weight": np.zeros((WIDTH, 3, 16, 16), "f"),
        "patch_embed.proj.bias": np.zeros(WIDTH, "f"),
    }
    norms = ["norm", *(f"blocks.{block}.norm{n}" for block in range(DEPTH) for n in (1, 2))]
    for name in norms:
        tensors |= {f"{name}.weight": np.ones(WIDTH, "f"), f"{name}.bias": np.zeros(WIDTH, "f")}
    for block in range(DEPTH):
        for name, (rows, columns) in SHAPES.items():
            kernel = np.ones((rows * WIDTH, columns * WIDTH), "f")
            tensors[f"blocks.{block}.{name}.weight"] = kernel
            tensors[f"blocks.{block}.{name}.bias"] = kernel[:, 0]
    path = tmp_path_factory.mktemp("large") / "x.safetensors"
    path.write_bytes(safetensors_bytes(tensors))
    return path


@pytest.mark.parametrize("to", ["npz", "pth", "hf"])
def test_converting_takes_a_few_tensors_of_memory(file, tmp_path, to):
    tracemalloc.start()
    try:
        convert(file, tmp_path / "out", f"--to={to}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < file.stat().st_size / 2


@pytest.mark.parametrize("to", ["orbax", "stablehlo"])
def test_what_is_written_of_all_tensors_at_once_is_refused_in_time(file, tmp_path, monkeypatch, to):
    monkeypatch.setattr(host, "host_memory", lambda: 2**24)
    message = failure(file, tmp_path / "out", f"--to={to}")
    assert f"--to={to} holds all tensors in memory, " in message and "16 MiB are free" in message
    assert not (tmp_path / "out").exists()
