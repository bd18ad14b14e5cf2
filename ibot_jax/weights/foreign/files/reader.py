"""Reads a file or folder of another project, of whatever kind it is.

*.pth, *.pt, *.bin      what torch.save wrote: the original's checkpoints, or tensors by name
*.safetensors, *.npz    tensors by name
a folder                of timm or transformers: config.json, model.safetensors, or its parts with
                        model.safetensors.index.json, ...

A kind of file is a module with `takes(path)` and `read(path)`, and a place in `_KINDS`.
"""

import dataclasses
import re

from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files import npz_file, safetensors_file, torch_file
from ibot_jax.weights.foreign.files.contents import Contents, parse_object
from ibot_jax.weights.foreign.files.folder_configs import read_configs
from ibot_jax.weights.foreign.files.licences import licence_beside
from ibot_jax.weights.foreign.tensor_names import split_by_owner

_KINDS = (safetensors_file, npz_file, torch_file)  # the first that takes a file reads it
_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".npz")
_INDEXES = tuple(f"{name}.index.json" for name in _WEIGHTS_FILES)


def read_contents(path: epath.Path) -> Contents:
    """Reads a file or a folder; tensors are left in their files until they are needed.

    Raises:
      UserError: if it is none of the above, is damaged, or holds no tensors.
    """
    contents = _read_folder(path) if path.is_dir() else _read_file(path)
    if "" in contents.sets:
        contents = dataclasses.replace(contents, sets=split_by_owner(contents.sets[""]))
    licence = licence_beside(path)
    facts = contents.facts | ({"license": licence} if licence else {})
    return dataclasses.replace(contents, facts=facts)


def _read_file(path: epath.Path) -> Contents:
    kind = next((kind for kind in _KINDS if kind.takes(path)), None)
    if kind is None:
        raise UserError(
            f"{path} is no .pth, .safetensors or .npz file by its content; give one, or a "
            "folder of a run, of an export, of timm or of transformers"
        )
    return kind.read(path)


def _read_folder(path: epath.Path) -> Contents:
    file = next((path / name for name in _WEIGHTS_FILES if (path / name).exists()), None)
    index = next((path / name for name in _INDEXES if (path / name).exists()), None)
    if file is None and index is None:
        raise UserError(
            f"{path} holds no model: no run, no export, and no {' or '.join(_WEIGHTS_FILES)}"
            f"{_what_there_is(path)}"
        )
    if not (path / "config.json").exists():
        raise UserError(
            f"{path} lacks config.json, which tells the architecture; restore it, or give "
            f"{file or path} itself with --heads=N"
        )
    contents = _read_file(file) if file else _read_shards(index)
    kind, facts = read_configs(path)
    return dataclasses.replace(contents, kind=kind, facts=facts | contents.facts)


def _what_there_is(folder: epath.Path) -> str:
    """Returns what a folder holds in place of weights that are called as usual, and what helps."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if not names:
        return ", nor any other weights"
    if re.search(r"-\d+-of-\d+$", names[0].rpartition(".")[0]):
        return f", but {names[0]}, a part of them: its index, {_INDEXES[0]}, is missing; restore it"
    return f", but {', '.join(names)}; give {folder / names[0]} itself"


def _read_shards(index: epath.Path) -> Contents:
    """Reads the files among which an index says that tensors are shared out."""
    places = parse_object(index.read_bytes(), index).get("weight_map")
    if not (isinstance(places, dict) and places and all(map(_is_file_name, places.values()))):
        raise UserError(f"{index} has no weight_map of names of files; restore it")
    tensors, facts = {}, {}
    for name in sorted(set(places.values())):
        shard = index.with_name(name)
        if not shard.exists():
            raise UserError(f"{shard} is not there, which {index.name} names; restore it")
        contents = _read_file(shard)
        facts |= contents.facts
        for tensor, place in places.items():
            if place == name:
                if tensor not in contents.sets.get("", {}):
                    raise UserError(f"{shard} lacks {tensor}, which {index.name} says is there")
                tensors[tensor] = contents.sets[""][tensor]
    return Contents("shards", {"": tensors}, {}, facts)


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\")
