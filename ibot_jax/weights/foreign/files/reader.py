"""Reads a file or folder of another project, of whatever kind it is.

*.pth, *.pt, *.bin      what torch.save wrote: the original's checkpoints, or tensors by name
*.safetensors, *.npz    tensors by name
a folder                of timm or transformers: config.json, model.safetensors, ...

A kind of file is a module with `takes(path)` and `read(path)`, and a place in `_KINDS`.
"""

import dataclasses

from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files import npz_file, safetensors_file, torch_file
from ibot_jax.weights.foreign.files.contents import Contents
from ibot_jax.weights.foreign.files.folder_configs import read_configs
from ibot_jax.weights.foreign.tensor_names import split_by_owner

_KINDS = (safetensors_file, npz_file, torch_file)  # the first that takes a file reads it
_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def read_contents(path: epath.Path) -> Contents:
    """Reads a file or a folder; tensors of PyTorch's files are left there until they are needed.

    Raises:
      UserError: if it is none of the above, is damaged, or holds no tensors.
    """
    contents = _read_folder(path) if path.is_dir() else _read_file(path)
    if "" in contents.sets:
        contents = dataclasses.replace(contents, sets=split_by_owner(contents.sets[""]))
    return contents


def _read_file(path: epath.Path) -> Contents:
    kind = next((kind for kind in _KINDS if kind.takes(path)), None)
    if kind is None:
        raise UserError(
            f"{path} is no .pth, .safetensors or .npz file; give one, or a folder of a run, of an "
            "export, of timm or of transformers"
        )
    return kind.read(path)


def _read_folder(path: epath.Path) -> Contents:
    file = next((path / name for name in _WEIGHTS_FILES if (path / name).exists()), None)
    if file is None:
        if (path / "model.safetensors.index.json").exists():
            raise UserError(
                f"{path} has its weights in several files; save them as one model.safetensors"
            )
        raise UserError(
            f"{path} holds no model: no run, no export, and no {' or '.join(_WEIGHTS_FILES)}"
        )
    if not (path / "config.json").exists():
        raise UserError(
            f"{path} lacks config.json, which tells the architecture; restore it, or give "
            f"{file} itself with --heads=N"
        )
    contents = read_contents(file)
    kind, facts = read_configs(path)
    return dataclasses.replace(contents, kind=kind, facts=facts | contents.facts)
