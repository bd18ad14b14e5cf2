"""What a file or folder of another project holds, before anything is made of it.

*.pth, *.pt, *.bin      what torch.save wrote: the original's checkpoints, or tensors by name
*.safetensors           tensors by name
a folder                of timm or transformers: config.json, model.safetensors, ...
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ibot_jax.convert.torch_reader import StoredTensor, is_torch_file, read_torch
from ibot_jax.errors import UserError
from ibot_jax.exported import import_safetensors

DESCRIPTION = "ibot_jax"  # where files that this project writes for others keep its description
Tensors = Mapping[str, StoredTensor | np.ndarray]

_SETS = ("teacher", "student")
_NESTED = ("state_dict", "model", "model_state_dict")  # where others keep their tensors
_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_MODEL_TYPES = ("vit", "dinov2")
_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
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
      facts: what else is known of the model: `heads`, `depth`, `size` [height, width], `mean`,
        `std`, `epsilon` of LayerNorm, `args` and `epoch` of the original's run, `act` of its head,
        and `description`, which this project has written into the file.
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
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
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
        facts["description"] = _parse(tree[DESCRIPTION], path)
    sets = {name: tree[name] for name in _SETS if isinstance(tree.get(name), Mapping)}
    if sets:
        args = tree.get("args")
        if isinstance(args, Mapping):
            facts |= {"args": _plain(args), "act": args.get("act_in_head", "gelu")}
        if isinstance(tree.get("epoch"), int):
            facts["epoch"] = tree["epoch"]
        loss = tree.get("ibot_loss")
        centers = {}
        if isinstance(loss, Mapping) and {"center", "center2"} <= loss.keys():
            centers = {"class": loss["center"], "patch": loss["center2"]}
        known = {*_SETS, DESCRIPTION} | ({"ibot_loss"} if centers else set())
        others = tuple(str(name) for name in tree if name not in known)
        sets = {name: _only_tensors(tensors, path) for name, tensors in sets.items()}
        return Contents("PyTorch checkpoint", sets, centers, facts, others)
    nested = next((name for name in _NESTED if isinstance(tree.get(name), Mapping)), None)
    tensors = tree if nested is None else tree[nested]
    others = () if nested is None else tuple(str(name) for name in tree if name != nested)
    return Contents("PyTorch weights", {"": _only_tensors(tensors, path)}, {}, facts, others)


def _only_tensors(tensors: Mapping[Any, Any], path: epath.Path) -> Tensors:
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and isinstance(tensor, StoredTensor)):
            raise UserError(
                f"{path} does not hold tensors by name: {str(name)[:60]!r} is a "
                f"{type(tensor).__name__}; its entries are {', '.join(map(str, list(tensors)[:8]))}"
            )
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return tensors


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
        tensors = {
            name: np.frombuffer(entry["data"], _SAFETENSORS_DTYPES[entry["dtype"]]).reshape(
                entry["shape"]
            )
            for name, entry in safetensors.deserialize(content)
        }
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except Exception as error:  # safetensors raises a kind of its own
        raise UserError(f"{path} is no safetensors file, or is damaged ({error})") from error
    facts = {}
    described = header.get("__metadata__", {}).get(DESCRIPTION)
    if described is not None:
        facts["description"] = _parse(described, path)
    return Contents("safetensors", {"": tensors}, {}, facts)


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
    config = _parse((path / "config.json").read_text(), path / "config.json")
    if "architecture" in config:
        kind, facts = "folder of timm", _timm_facts(config)
    else:
        kind, facts = "folder of transformers", _transformers_facts(config, path)
    known = {name: value for name, value in facts.items() if value is not None}
    return dataclasses.replace(contents, kind=kind, facts=known | contents.facts)


def _timm_facts(config: dict[str, Any]) -> dict[str, Any]:
    settings = config.get("pretrained_cfg", config)
    input_size = settings.get("input_size")  # channels, height, width
    return {
        "heads": config.get("model_args", {}).get("num_heads"),
        "size": input_size and input_size[1:],
        "mean": settings.get("mean"),
        "std": settings.get("std"),
    }


def _transformers_facts(config: dict[str, Any], path: epath.Path) -> dict[str, Any]:
    name = path / "config.json"
    if config.get("model_type") not in _MODEL_TYPES:
        raise UserError(
            f"{name} has model_type={config.get('model_type')!r}; only "
            f"{' and '.join(_MODEL_TYPES)} can be converted"
        )
    for key, needed in (("hidden_act", "gelu"), ("use_swiglu_ffn", False), ("qkv_bias", True)):
        if config.get(key, needed) != needed:
            raise UserError(f"{name} has {key}={config[key]!r}; here it is {needed!r} always")
    size = config.get("image_size")
    facts = {
        "heads": config.get("num_attention_heads"),
        "depth": config.get("num_hidden_layers"),
        "size": [size, size] if isinstance(size, int) else size,
        "epsilon": config.get("layer_norm_eps"),
    }
    preprocessor = path / "preprocessor_config.json"
    if preprocessor.exists():
        settings = _parse(preprocessor.read_text(), preprocessor)
        facts |= {"mean": settings.get("image_mean"), "std": settings.get("image_std")}
    return facts


def _parse(text: str, path: epath.Path) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); restore it") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} holds no description of a model; restore it")
    return parsed
