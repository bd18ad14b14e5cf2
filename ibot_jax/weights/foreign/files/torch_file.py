"""Files that torch.save wrote: checkpoints of the original, or tensors by name.

Tensors are left in the file until they are needed.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files.contents import DESCRIPTION, Contents, Tensors, parse_object
from ibot_jax.weights.foreign.files.torch_reader import StoredTensor, is_torch_file, read_torch

_SETS = ("teacher", "student")
_NESTED = ("state_dict", "model", "model_state_dict", "module")  # where others keep their tensors


def takes(path: epath.Path) -> bool:
    """Returns whether `read` is to read a file."""
    return is_torch_file(path)


def read(path: epath.Path) -> Contents:
    """Reads a file; raises a UserError if it is damaged or holds no tensors."""
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
