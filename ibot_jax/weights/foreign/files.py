"""What a file or folder of another project holds, before anything is made of it.

*.pth, *.pt, *.bin      what torch.save wrote: the original's checkpoints, or tensors by name
*.safetensors, *.npz    tensors by name
a folder                of timm or transformers: config.json, model.safetensors, ...
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.folder_configs import parse_object, read_configs
from ibot_jax.weights.foreign.tensor_names import split_by_owner
from ibot_jax.weights.foreign.torch_reader import StoredTensor, is_torch_file, read_torch
from ibot_jax.weights.formats import import_safetensors

DESCRIPTION = "ibot_jax"  # where files that this project writes for others keep its description
Tensors = Mapping[str, StoredTensor | np.ndarray]

_SETS = ("teacher", "student")
_NESTED = ("state_dict", "model", "model_state_dict", "module")  # where others keep their tensors
_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """What was found.

    Attributes:
      kind: of file, for people.
      sets: tensors by the names they have there, by "teacher" and "student"; by "" where there is
        one set and nothing says whose.
      centers: of the losses, by kind, where there are any.
      facts: what else is known of the model: `heads`, `depth`, `width`, `hidden` units of an MLP,
        `patch_size`, `channels`, `size` [height, width], `mean`, `std`, `epsilon` of LayerNorm,
        `args` and `epoch` of the original's run, `act` of its head, `view`, how images are resized
        and cut, with `notes` on what of it is not taken, and `description`, which this project has
        written into the file.
      others: names of what is in the file besides.
    """

    kind: str
    sets: dict[str, Tensors]
    centers: dict[str, StoredTensor] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    others: tuple[str, ...] = ()


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
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if is_torch_file(path):
        return _read_checkpoint(path)
    raise UserError(
        f"{path} is no .pth, .safetensors or .npz file; give one, or a folder of a run, of an "
        "export, of timm or of transformers"
    )


def _read_checkpoint(path: epath.Path) -> Contents:
    tree = read_torch(path)
    if not isinstance(tree, Mapping):
        raise UserError(f"{path} holds a {type(tree).__name__}, not tensors by name")
    facts = {}
    if isinstance(tree.get(DESCRIPTION), str):
        facts["description"] = parse_object(tree[DESCRIPTION], path)
    if isinstance(args := tree.get("args"), Mapping):
        facts |= {"args": _plain(args), "act": args.get("act_in_head", "gelu")}
    if isinstance(tree.get("epoch"), int):
        facts["epoch"] = tree["epoch"]
    known, centers, loss = {DESCRIPTION}, {}, tree.get("ibot_loss")
    if isinstance(loss, Mapping) and {"center", "center2"} <= loss.keys():
        centers = {"class": loss["center"], "patch": loss["center2"]}
        known.add("ibot_loss")
    sets, others = _find_sets(tree)
    tensors = {}
    for who, there in sets.items():
        tensors[who], passed = _tensors(there, path)
        others += passed
    kind = "PyTorch weights" if "" in sets else "PyTorch checkpoint"
    return Contents(kind, tensors, centers, facts, tuple(x for x in others if x not in known))


def _find_sets(tree: Mapping[Any, Any]) -> tuple[dict[str, Mapping[Any, Any]], list[str]]:
    """Returns what holds tensors, by whose they are, and the names of what lies beside."""
    others = []
    while True:
        sets = {name: tree[name] for name in _SETS if isinstance(tree.get(name), Mapping)}
        if not sets:
            nested = next((name for name in _NESTED if isinstance(tree.get(name), Mapping)), None)
            if nested is None:
                return {"": tree}, others
        others += [str(name) for name in tree if name not in (sets or (nested,))]
        if sets:
            return sets, others
        tree = tree[nested]


def _tensors(tree: Mapping[Any, Any], path: epath.Path) -> tuple[Tensors, list[str]]:
    """Returns the tensors of a tree by names with dots, and the names of what is none."""
    tensors = _flat(tree)
    if not tensors:
        if not tree:
            raise UserError(f"{path} holds no tensors")
        name, value = next(iter(tree.items()))
        raise UserError(
            f"{path} does not hold tensors by name: {str(name)[:60]!r} is a "
            f"{type(value).__name__}; its entries are {', '.join(map(str, list(tree)[:8]))}"
        )
    return tensors, [str(name) for name in tree if not _is_of_tensors(name, tree[name])]


def _flat(tree: Mapping[Any, Any]) -> dict[str, StoredTensor]:
    tensors = {}
    for name, value in tree.items():
        if _is_of_tensors(name, value):
            inner = {"": value} if isinstance(value, StoredTensor) else _flat(value)
            tensors |= {".".join(filter(None, (name, key))): inner[key] for key in inner}
    return tensors


def _is_of_tensors(name: Any, value: Any) -> bool:
    """Returns whether it is a tensor, or a module's: tensors by name and nothing else."""
    if isinstance(value, Mapping):
        return bool(value) and all(_is_of_tensors(key, value[key]) for key in value)
    return isinstance(name, str) and isinstance(value, StoredTensor)


def _plain(args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what JSON can say of the original's arguments."""
    return {
        str(name): value
        for name, value in args.items()
        if value is None or isinstance(value, str | int | float | bool)
    }


def _read_safetensors(path: epath.Path) -> Contents:
    safetensors = import_safetensors()
    content = path.read_bytes()
    try:
        entries = dict(safetensors.deserialize(content))
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except Exception as error:  # safetensors raises a kind of its own
        raise UserError(f"{path} is no safetensors file, or is damaged ({error})") from error
    tensors = {}
    for name, entry in sorted(entries.items()):
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise UserError(
                f"{path} holds {name} as {entry['dtype']}, which cannot be read here; save it as "
                "float32"
            )
        tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    facts = {}
    described = header.get("__metadata__", {}).get(DESCRIPTION)
    if described is not None:
        facts["description"] = parse_object(described, path)
    return Contents("safetensors", {"": tensors}, {}, facts)


def _read_npz(path: epath.Path) -> Contents:
    tensors = {}
    try:
        with np.load(path.open("rb"), allow_pickle=False) as file:
            for name in file.files:
                array = file[name]
                # NumPy's format has no name for bfloat16, and calls it two bytes.
                tensors[name] = array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array
    except Exception as error:  # of zipfile, zlib and NumPy
        where = f" behind {list(tensors)[-1]}" if tensors else ""
        raise UserError(f"{path} cannot be read as arrays by name{where} ({error})") from error
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return Contents("NumPy arrays", {"": tensors})


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
