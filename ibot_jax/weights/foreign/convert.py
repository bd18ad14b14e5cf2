"""From another project's tensors to this project's model, with every tensor accounted for."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.config.flat import section
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.weights.deferred import Deferred
from ibot_jax.weights.foreign import original_names, swin, vit
from ibot_jax.weights.foreign.accounting import (
    MASK_TOKEN,
    NO_MASK_TOKEN,
    account,
    check_shapes,
    neutral,
    shape_of,
)
from ibot_jax.weights.foreign.architecture import Known, infer_config, told_depths
from ibot_jax.weights.foreign.dialects import TIMM_SWIN, Dialect
from ibot_jax.weights.foreign.files.contents import Contents, Stored, Tensors
from ibot_jax.weights.foreign.tensor_names import FileNames
from ibot_jax.weights.sanity import check_finite

# Of heads, by the original's names: all; what a separate last layer has; a separate head; and last
# layers without weight normalisation.
_HEADS, _PATCH_HEAD = r"^(patch_)?head\.", r"^patch_head\."
_SECOND, _PLAIN = r"\.last_layer2\.", r"\.last_layer2?\.weight$"


@dataclasses.dataclass(frozen=True)
class Taken:
    """One set of tensors, converted.

    Attributes:
      config: the default config, flattened, with the sections `model`, `head` and `data` as found.
      params: {"backbone": ..., and by option "head": ...}, arrays that are `Deferred`.
      dialect: whose names the tensors had.
      notes: what a person should know: neutral values, tensors left out.
    """

    config: dict[str, Any]
    params: original_names.Params
    dialect: Dialect
    notes: tuple[str, ...]


def take(contents: Contents, who: str, path: str, known: Known, *, head: bool | None) -> Taken:
    """Converts one set of tensors.

    Args:
      contents: of the file.
      who: a key of `contents.sets`.
      path: of the file, for messages.
      known: what the user says of the model.
      head: whether the projection head comes too; None where there is one as this project has it.

    Raises:
      UserError: if it is no backbone as this project has them, or if a tensor is missing, left over
        or of another shape and not allowed to be; the message names it as the file does.
    """
    tensors, student = contents.sets[who], who == "student"
    names = FileNames.of(tensors, path)
    if head and not names.head:
        raise UserError(
            f"{path} holds no projection head as this project has them, and one is needed; give "
            "weights with one"
        )
    is_buffer = {"swin": swin.is_buffer, "vit": vit.is_buffer}[names.dialect.arch]
    buffers = {n: _array(tensors[n], n, path) for n in tensors if is_buffer(n)}
    # What holds no numbers, as registers where there are none, is nothing.
    tensors = {
        n: tensor for n, tensor in tensors.items() if n not in buffers and 0 not in tensor.shape
    }
    facts = dict(contents.facts)
    depths = told_depths(facts) or names.depths
    wanted = _expected_names(names, tensors, depths, facts, head=head is not False, student=student)
    if head is None:
        head = _has_head(names, tensors, wanted)
        wanted = [name for name in wanted if head or not _is_of_heads(name)]
    notes = account(names, tensors, wanted, path, known.allow, backbone_only=known.backbone_only)
    shapes = {name: shape_of(names, tensors, name) for name in wanted}
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    if MASK_TOKEN not in shapes:
        notes.append(NO_MASK_TOKEN)
    if names.dialect.arch == "vit":
        told, more_notes = vit.told_by_buffers(buffers, path)
        facts, notes = told | facts, [*notes, *more_notes]
    config, more_notes = infer_config(names, depths, shapes, facts, known, path)
    if head:
        last = {name: _read(names, tensors, name, path) for name in shapes if "last_layer" in name}
        config |= _infer_last_layers(last)
    shared = config["head.shared"]
    model, heads, data = (section(config, name) for name in ("model", "head", "data"))
    expected = expected_shapes(model, heads if head else None, data, student=student)
    if shared:  # written twice by the original, once by DINO
        expected = {name: shape for name, shape in expected.items() if "last_layer2" not in name}
    check_shapes(names, tensors, {n: s for n, s in expected.items() if n in shapes}, path)
    if names.dialect.arch == "swin":
        notes += _check_windows(names.dialect, buffers, model, data.global_size, path)
    values = {
        name: _deferred(names, tensors, name, shape, path)
        if name in shapes
        else np.full(shape, neutral(name), np.float32)
        for name, shape in expected.items()
    }
    params = original_names.to_flax(values, shared)
    return Taken(config, params, names.dialect, (*notes, *more_notes))


def _expected_names(
    names: FileNames,
    tensors: Tensors,
    depths: Sequence[int],
    facts: Mapping[str, Any],
    *,
    head: bool,
    student: bool,
) -> list[str]:
    """Returns the original's names of the tensors of the model that a file's names tell of.

    Args:
      names: of the file.
      tensors: of the file, by its names.
      depths: number of blocks, by stage.
      facts: what else the file says; `args` are those of the original's run.
      head: whether the model has a projection head.
      student: whose it is.
    """
    parts = original_names.all_names(names.dialect.arch, depths)
    if names.dialect.arch == "vit":
        there = [n for n in parts if any(part in tensors for part in names.find(n))]
        described = facts.get("description", {}).get("model", {})
        kind = facts.get("norm_kind") or described.get("norm_kind", "layer")
        parts = vit.expected(names.dialect, parts, there, kind)
    args = facts.get("args", {})
    said = args.get("shared_head", True)
    separate = not (said if student else args.get("shared_head_teacher", said))

    def any_of(pattern: str) -> bool:
        found = [part for n in parts if re.search(pattern, n) for part in names.find(n)]
        return any(part in tensors for part in found)

    unwanted = [] if head else [_HEADS]
    if not (separate or any_of(_SECOND)):
        unwanted.append(_SECOND)
    if not any_of(_PATCH_HEAD):
        unwanted.append(_PATCH_HEAD)
    unwanted.append(r"last_layer2?\.weight_" if any_of(_PLAIN) else _PLAIN)
    if names.has_decoder:
        unwanted.append(f"^{re.escape(MASK_TOKEN)}$")
    return [name for name in parts if not any(re.search(pattern, name) for pattern in unwanted)]


def _is_of_heads(name: str) -> bool:
    return re.search(_HEADS, name) is not None


def _has_head(names: FileNames, tensors: Tensors, wanted: Sequence[str]) -> bool:
    """Returns whether a file has all tensors of the original's head, and none of another head."""
    ours = {part for name in wanted if _is_of_heads(name) for part in names.find(name)}
    heads = {name for name in tensors if names.is_head(name) or names.is_other_head(name)}
    return bool(names.head) and heads == ours


def _check_windows(
    dialect: Dialect,
    buffers: Mapping[str, np.ndarray],
    model: Section,
    size: tuple[int, int],
    path: str,
) -> list[str]:
    """Returns notes; raises a UserError if windows are computed otherwise than here."""
    if dialect is TIMM_SWIN and (otherwise := swin.otherwise_in_timm(model, size)):
        raise UserError(f"{path} computes otherwise: {otherwise}; here it is not so")
    swin.check_buffers(buffers, model, size, path)
    return [f"left out: {len(buffers)} buffers of windows, as they are here"] if buffers else []


def _infer_last_layers(values: Mapping[str, np.ndarray]) -> dict[str, bool]:
    """Returns the keys that say what all tokens share, and whether the prototypes' norms are 1.

    Args:
      values: of the last layers' tensors, by the original's names.
    """
    leaves = ("weight_g", "weight_v", "weight")
    pairs = [(f"head.last_layer.{leaf}", f"head.last_layer2.{leaf}") for leaf in leaves]
    separate = any(name.startswith("patch_head.") for name in values)
    shared = not separate and (
        not any(second in values for _, second in pairs)
        or all(
            first in values and second in values and np.array_equal(values[first], values[second])
            for first, second in pairs
            if first in values or second in values
        )
    )
    weight_norm = pairs[2][0] not in values
    return {
        "head.shared": shared,
        "head.shared_teacher": shared,
        "head.separate": separate,
        "head.weight_norm": weight_norm,
        "head.norm_last_layer": weight_norm and bool(np.all(values.get(pairs[0][0], 1) == 1)),
    }


def expected_shapes(
    model: Section, head: Section | None, data: Section, *, student: bool
) -> dict[str, tuple[int, ...]]:
    """Returns the original's names and shapes of all tensors of a model, but for buffers."""

    def init():
        image = jnp.zeros((1, *data.global_size, data.channels))
        backbone = build_backbone(model, data.global_size, "float32")
        params = {"backbone": backbone.init(jax.random.key(0), image)["params"]}
        if head is not None:
            module = build_head(head, "float32", teacher=not student)
            token = jnp.zeros((1, geometry_of(model).width))
            params["head"] = module.init(jax.random.key(0), token)["params"]
        return params

    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), jax.eval_shape(init))
    tensors = original_names.to_torch(zeros, model.patch_size)
    return {n: tensor.shape for n, tensor in tensors.items() if not swin.is_buffer(n)}


def _deferred(
    names: FileNames, tensors: Tensors, name: str, shape: tuple[int, ...], path: str
) -> Deferred:
    """Returns one of the original's tensors, which stays in the file until it is asked for."""
    there = [tensors[part].dtype for part in names.find(name) if part is not None]
    dtype = np.result_type(np.float32, *(np.promote_types(x, np.float32) for x in there))
    return Deferred(shape, dtype, lambda: _read(names, tensors, name, path).reshape(shape))


def _read(names: FileNames, tensors: Tensors, name: str, path: str) -> np.ndarray:
    """Reads one of the original's tensors of whatever parts it has in a file."""
    parts = names.find(name)
    there = {part: read_tensor(tensors[part], part, path) for part in parts if part is not None}
    zeros = np.zeros_like(next(iter(there.values())))
    array = np.concatenate([zeros if part is None else there[part] for part in parts])
    if (half := names.dialect.half(name)) is not None:
        array = np.split(array, 2)[half]
    if names.dialect.class_has_position and name == "backbone.pos_embed":
        array = np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)
    return array


def read_tensor(tensor: Stored | np.ndarray, name: str, path: str) -> np.ndarray:
    """Returns a tensor as float32, or float64 where it is that.

    Raises:
      UserError: if it is damaged, or holds other than finite floating-point numbers.
    """
    array = _array(tensor, name, path)
    check_finite({name: array}, path)
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def _array(tensor: Stored | np.ndarray, name: str, path: str) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    try:
        return tensor.read()
    except Exception as error:  # what a file may say of shapes and places has no end
        raise UserError(f"{path} is damaged: {name} cannot be read ({error})") from error
