"""The first state of a run that starts from weights: fitted to its model, laid over its devices."""

from typing import Any

import jax
import numpy as np
import optax

from ibot_jax.config import selections
from ibot_jax.config.flat import Flat, section
from ibot_jax.errors import UserError
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.models import adapt
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.parameters import Params
from ibot_jax.models.positions import resample_positions
from ibot_jax.runs.checkpoint import weights_of
from ibot_jax.runs.origin import Origin
from ibot_jax.weights.checkpoints import RESTORE
from ibot_jax.weights.read import differing, read_like, readable
from ibot_jax.weights.sanity import check_finite

_NETWORKS = ("student", "teacher")


def start_weights(
    origin: Origin, flat: Flat, like: TrainState
) -> tuple[dict[str, Any], dict[str, str]]:
    """Fits weights to a run's model and lays them over its devices.

    Args:
      origin: the weights.
      flat: the config, which does not contradict them.
      like: arrays or jax.ShapeDtypeStructs with shardings, which say how to lay them out.

    Returns:
      "student" and "teacher", {"backbone": ..., and with heads "head": ...}, and "centers" where
      they are taken, arrays on the devices; and in words what came from where, by what it is.

    Raises:
      UserError: if they cannot be read, a tensor has another shape, or is not finite.
    """
    with_head = flat["init_head"] == "load" and origin.has_head
    layouts = _layouts(like, origin, with_head)
    changes = _changes(flat, origin.model) if origin.model else {}
    weights = {}
    for part, layout in layouts.items():
        name = f"init_from={origin.path!r}: {part}"
        in_place = origin.checkpoint and with_head and not changes
        if in_place and part in _NETWORKS:  # each device reads what it keeps
            with readable(origin.checkpoint, RESTORE):
                weights[part] = read_like(origin.checkpoint, part, layout)
            check_finite(weights[part], name)
        else:
            tree = origin.read(part, layout)
            check_finite(tree, name)
            if changes and part in _NETWORKS:
                tree = tree | {"backbone": fitted(tree["backbone"], origin.model, flat)}
            weights[part] = _placed(tree, layout, name)
    return weights, _table(flat, origin, layouts, changes)


def _layouts(like: TrainState, origin: Origin, with_head: bool) -> dict[str, Any]:
    """Returns shapes and layouts of what is taken."""
    layouts = weights_of(like)
    if not with_head:
        layouts = {who: {"backbone": layouts[who]["backbone"]} for who in _NETWORKS}
    elif "centers" in layouts and not origin.centers.keys() >= layouts["centers"].keys():
        del layouts["centers"]
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), layouts
    )


def replace_weights(state: TrainState, weights: dict[str, Any]) -> TrainState:
    """Returns a fresh state with other weights; what is not among them stays, as the optimiser's.

    Args:
      state: of the first step.
      weights: see `start_weights`.
    """
    teacher = teacher_params(state) | weights["teacher"]
    return state.replace(
        params=state.params | weights["student"],
        opt_state=optax.tree.set(state.opt_state, teacher=teacher),
        buffers=state.buffers | {k: weights[k] for k in weights if k not in _NETWORKS},
    )


def fitted(backbone: Params, there: Flat, here: Flat) -> Params:
    """Returns a backbone's parameters as another config wants them, see `models.adapt`.

    Args:
      backbone: its parameters.
      there: the config that they are of.
      here: the config that they shall be of; it does not contradict that.
    """
    if here["init_blocks"]:
        backbone = adapt.with_blocks(backbone, selections.blocks(here["init_blocks"]))
    patch_size = there["model.patch_size"]
    if (entries := _entries(here, there)) is not None:
        shares = adapt.channel_shares(entries, there["data.channels"])
        backbone = adapt.with_channels(backbone, patch_size, shares)
    if here["model.patch_size"] != patch_size:
        backbone = adapt.with_patches(backbone, patch_size, here["model.patch_size"])
    if "pos_embed" in backbone:
        how = here["model.pos_offset"], here["model.pos_antialias"]
        positions = resample_positions(backbone["pos_embed"], _grid(there), _grid(here), *how)
        backbone = backbone | {"pos_embed": np.asarray(positions)}
    return backbone


def _changes(here: Flat, there: Flat) -> dict[str, str]:
    """Returns in words what `fitted` changes; the arguments are two configs."""
    found, depth = {}, there["model.depth"]
    if text := here["init_blocks"]:
        found["blocks"] = f"{text} of the {depth} there"
    if (entries := _entries(here, there)) is not None:
        found["channels"] = f"of the {there['data.channels']} there {', '.join(map(str, entries))}"
    if (old := there["model.patch_size"]) != (new := here["model.patch_size"]):
        found["patches"] = f"{old} pixels there, {new} here, by the pseudo-inverse of resizing"
    learned = here["model.arch"] == "vit" and here["model.positions"] == "learned"
    if learned and _grid(there) != _grid(here):
        old, new = ("x".join(map(str, _grid(flat))) for flat in (there, here))
        found["positions"] = f"of {old} patches there, {new} here, resampled"
    return found


def _entries(here: Flat, there: Flat) -> tuple[int | str, ...] | None:
    """Returns what becomes of each channel; None if all stay as they are."""
    old, new = there["data.channels"], here["data.channels"]
    entries = selections.channels(here["init_channels"], old, new)
    return None if entries == tuple(range(old)) else entries


def _table(
    flat: Flat, origin: Origin, taken: dict[str, Any], changes: dict[str, str]
) -> dict[str, str]:
    """Returns in words what came from where, by what it is."""
    table = {}
    for who in _NETWORKS:
        fresh = "" if "head" in taken[who] else "; its head is fresh"
        whose = f" of the {origin.owner(who)}" if origin.named else ""
        table[who] = f"{' and '.join(taken[who])}{whose} there{fresh}"
    table["centers"] = "those there" if "centers" in taken else "fresh"
    table |= changes
    for key in ("data.mean", "data.std"):
        there = origin.model[key] if origin.model else flat[key]
        if there != flat[key] and len(there) == len(flat[key]):
            table[key] = f"{there} there, {flat[key]} here: other pixels than it knows"
    return table | ({"notes": "; ".join(origin.notes)} if origin.notes else {})


def _grid(flat: Flat) -> tuple[int, int]:
    return geometry_of(section(flat, "model")).grid(flat["data.global_size"])


def _placed(tree: Params, layout: Any, name: str) -> Any:
    """Lays NumPy arrays over the devices; each process those of its own."""
    for tensor, there, here in differing(tree, layout):
        raise UserError(
            f"{name} does not fit this config: {tensor} is {there} there and {here} here; make "
            "model, head and input size equal"
        )

    def place(x: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
        x = np.asarray(x).astype(like.dtype)
        return jax.make_array_from_callback(x.shape, like.sharding, x.__getitem__)

    return jax.tree.map(place, tree, layout)
