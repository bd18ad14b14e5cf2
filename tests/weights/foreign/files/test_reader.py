"""Folders whose tensors are shared out among files: all of them are there, or it is one line."""

import json
import os
import pickle

import numpy as np
import pytest
from etils import epath
from foreign_weights import convert, failure, safetensors_bytes, vit

import ibot_jax
from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files.reader import read_contents
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"embed_dim": 32, "num_heads": 4, "patch_size": 4, "img_size": 16},
}


@pytest.fixture
def shards(tmp_path):
    """Returns a folder of two shards, every other tensor in each."""
    folder, tensors = tmp_path / "shards", vit()
    folder.mkdir()
    places = {name: SHARDS[number % 2] for number, name in enumerate(tensors)}
    for shard in SHARDS:
        part = {name: tensors[name] for name, place in places.items() if place == shard}
        (folder / shard).write_bytes(safetensors_bytes(part))
    write_index(folder, places)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_index(folder, places):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def refused(folder, tmp_path):
    """Returns the one line that the conversion of a folder ends with; nothing is written."""
    message = failure(folder, tmp_path / "o.npz", "--to=npz")
    assert not (tmp_path / "o.npz").exists()
    return message


def test_shards_are_one_model(shards, tmp_path):
    convert(shards, tmp_path / "o.npz", "--to=npz")
    (tmp_path / "whole.pth").write_bytes(torch_bytes(vit()))
    convert(tmp_path / "whole.pth", tmp_path / "w.npz", "--to=npz", "--heads=4")
    (_, found), (_, whole) = (ibot_jax.load(str(tmp_path / name)) for name in ("o.npz", "w.npz"))
    for tokens in ("cls_token", "pos_embed"):
        np.testing.assert_array_equal(found["backbone"][tokens], whole["backbone"][tokens])
    kernels = (tree["backbone"]["blocks_1"]["mlp"]["fc2"]["kernel"] for tree in (found, whole))
    np.testing.assert_array_equal(*kernels)


def test_shards_of_pytorch_too(shards, tmp_path):
    for shard in SHARDS:
        contents = read_contents(epath.Path(shards / shard)).sets[""]
        content = torch_bytes({name: tensor.read() for name, tensor in contents.items()})
        (shards / shard).unlink()
        (shards / shard.replace("safetensors", "bin")).write_bytes(content)
    text = (shards / INDEX).read_text().replace(".safetensors", ".bin")
    (shards / INDEX).unlink()
    (shards / "pytorch_model.bin.index.json").write_text(text)
    assert "folder of timm with names of " in convert(shards, tmp_path / "o.npz", "--to=npz")


def test_a_shard_that_is_not_there(shards, tmp_path):
    (shards / SHARDS[1]).unlink()
    message = refused(shards, tmp_path)
    assert f"{SHARDS[1]} is not there, which {INDEX} names; restore it" in message


def test_a_shard_that_is_cut_short(shards, tmp_path):
    content = (shards / SHARDS[1]).read_bytes()
    for length in (len(content) - 4, 100, 4, 0):
        (shards / SHARDS[1]).write_bytes(content[:length])
        message = refused(shards, tmp_path)
        assert f"{SHARDS[1]} is no safetensors file, or is damaged" in message


def test_a_shard_whose_numbers_are_damaged(shards, tmp_path):
    content = bytearray((shards / SHARDS[0]).read_bytes())
    content[-4:] = b"\xff\xff\xff\xff"  # NaN
    (shards / SHARDS[0]).write_bytes(content)
    assert "holds NaN or infinities in " in refused(shards, tmp_path)


def test_an_index_that_names_what_no_shard_has(shards, tmp_path):
    places = json.loads((shards / INDEX).read_text())["weight_map"]
    write_index(shards, places | {"fc_norm.weight": SHARDS[0]})
    message = refused(shards, tmp_path)
    assert f"{SHARDS[0]} lacks fc_norm.weight, which {INDEX} says is there" in message


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "a\\b", "", "..", 3, None])
def test_an_index_that_leads_elsewhere(shards, tmp_path, place):
    write_index(shards, {"cls_token": place})
    assert f"{INDEX} has no weight_map of names of files" in refused(shards, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_is_none(shards, tmp_path, content):
    (shards / INDEX).write_text(content)
    assert INDEX in refused(shards, tmp_path)


def test_a_tensor_that_the_index_leaves_out(shards, tmp_path):
    places = json.loads((shards / INDEX).read_text())["weight_map"]
    del places["norm.weight"], places["norm.bias"]
    write_index(shards, places)
    assert "it lacks norm.weight, norm.bias" in refused(shards, tmp_path)


class Hostile:
    """Pickles as a call that makes a folder."""

    def __init__(self, folder):
        self._folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self._folder,)


@pytest.mark.parametrize("name", ["x.pth", "pytorch_model.bin", "x.safetensors", "x.npz", "x.ckpt"])
def test_a_bare_pickle_never_runs(tmp_path, name):
    """In whatever file, by whatever name."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / name).write_bytes(pickle.dumps(Hostile(tmp_path / "witness")))
    for source in (tmp_path / name, tmp_path):
        refused(source, tmp_path)
    assert not (tmp_path / "witness").exists()


def test_an_array_of_objects_never_runs(tmp_path):
    hostile = np.array([Hostile(tmp_path / "witness")], object)
    np.savez(tmp_path / "x.npz", **vit() | {"hook": hostile})
    assert "hook" in refused(tmp_path / "x.npz", tmp_path)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "bool", "complex64"])
def test_weights_of_another_kind_of_numbers(tmp_path, suffix, dtype):
    """As those of quantised models, whose scales lie elsewhere."""
    name = "blocks.1.mlp.fc1.weight"
    tensors = vit() | {name: np.ones((128, 32), dtype)}
    path, kinds = tmp_path / f"x.{suffix}", {"int8": "I8", "uint8": "U8", "bool": "BOOL"}
    if suffix == "npz":
        np.savez(path, **tensors)
    elif suffix == "pth":
        path.write_bytes(torch_bytes(tensors))
    else:
        kinds = kinds | {"int16": "I16", "complex64": "C64"}
        path.write_bytes(safetensors_bytes(tensors, {name: kinds[dtype]}))
    message = failure(path, tmp_path / "o.npz", "--to=npz", "--heads=4")
    shown = "C64" if (suffix, dtype) == ("safetensors", "complex64") else dtype
    assert f"holds {name} as {shown}" in message
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json"], "no model.safetensors or pytorch_model.bin, nor any other weights"),
        (["config.json", "vits.pth"], r"but vits.pth; give .*folder/vits.pth itself"),
        (
            [SHARDS[0], "config.json"],
            f"but {SHARDS[0]}, a part of them: its index, {INDEX}, is missing",
        ),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(tmp_path, names, message):
    folder = epath.Path(tmp_path / "folder")
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    with pytest.raises(UserError, match=message):
        read_contents(folder)
