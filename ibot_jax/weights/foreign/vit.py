"""A ViT of another project: its options by its tensors, its buffers, and what is none elsewhere."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ibot_jax.config.flat import Flat
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.models.rope import Rope
from ibot_jax.weights.deferred import Array, mapped
from ibot_jax.weights.foreign.dialects import Dialect

Shapes = Mapping[str, Sequence[int]]

_ENDS = ("rope_min_period", "rope_max_period")
_PERIODS, _BIAS_MASK = "rope_embed.periods", "qkv.bias_mask"
# What a file has all of or none of, by the original's names.
_GATE, _GATED, _PLAIN = r"\.mlp\.w1\.", r"\.mlp\.w\d\.", r"\.mlp\.fc\d\."
_POSITIONS = r"\.pos_embed$"
_GAINS, _REGISTERS, _BIAS = r"\.gamma_\d$", r"\.register_tokens$", r"\.qkv\.bias$"
_QK_NORM, _CLASS_NORM, _LOCAL_NORM = r"\.[qk]_norm\.", r"\.cls_norm\.", r"\.local_cls_norm\."
_OPTIONAL = (_GAINS, _REGISTERS, _BIAS, _QK_NORM, _CLASS_NORM, _LOCAL_NORM)
# What no tensor tells, and a description of this project does.
UNTOLD = ("model.norm_kind", "model.pos_offset", "model.pos_antialias", "model.rope_coordinates")
UNTOLD += ("model.rope_base", "model.rope_min_period", "model.rope_max_period", "model.rope_dtype")
UNTOLD += ("model.rope_shift", "model.rope_jitter", "model.rope_rescale")


def expected(
    dialect: Dialect, names: Sequence[str], there: Collection[str], norm_kind: str
) -> list[str]:
    """Returns which tensors of all that a ViT may have are those of a file's model.

    Args:
      dialect: of the file.
      names: of all tensors, the original's.
      there: those of which a part is in the file.
      norm_kind: `model.norm_kind`.
    """
    unwanted = [pattern for pattern in _OPTIONAL if not _any(pattern, there)]
    unwanted.append(_PLAIN if _any(_GATE, there) else _GATED)
    if dialect.resampling is None:
        unwanted.append(_POSITIONS)
    if norm_kind == "rms":
        unwanted.append(r"norm\w*\.bias$")
    return [name for name in names if not any(re.search(pattern, name) for pattern in unwanted)]


def _any(pattern: str, names: Collection[str]) -> bool:
    return any(re.search(pattern, name) for name in names)


def hidden(shapes: Shapes) -> str:
    """Returns which tensor's rows are the hidden units of the feed-forward networks."""
    gated = "backbone.blocks.0.mlp.w1.weight"
    return gated if gated in shapes else "backbone.blocks.0.mlp.fc1.weight"


def options(dialect: Dialect, shapes: Shapes, facts: Mapping[str, Any]) -> Flat:
    """Returns the keys of the options that tensors, dialect and facts tell.

    Args:
      dialect: of the file.
      shapes: by the original's names.
      facts: as `files.Contents` and `told_by_buffers` have them.
    """
    gated = _any(_GATED, shapes)
    registers = shapes.get("backbone.register_tokens", (1, 0))
    found: Flat = {
        "model.layer_scale": float(_any(_GAINS, shapes)),
        "model.ffn": "swiglu" if gated else "mlp",
        "model.hidden_dim": shapes[hidden(shapes)][0] if gated else 0,
        "model.registers": registers[1],
        "model.qk_norm": _any(_QK_NORM, shapes),
        "model.untie_class_norm": _any(_CLASS_NORM, shapes),
        "model.untie_local_norm": _any(_LOCAL_NORM, shapes),
        "model.positions": "learned" if dialect.resampling else "rotary",
        "model.qkv_bias": "none",
        "model.norm_kind": facts.get("norm_kind", "layer"),
    }
    if _any(_BIAS, shapes):
        masked = dialect.masks_key_bias or facts.get("masked_key")
        found["model.qkv_bias"] = "masked_key" if masked else "full"
    if dialect.resampling:
        offset, antialias = facts.get("resampling", dialect.resampling)
        found |= {"model.pos_offset": offset, "model.pos_antialias": antialias}
    elif "rope_base" in facts:
        found["model.rope_base"] = float(facts["rope_base"])
    return found | facts.get("rope", {})


def is_buffer(name: str) -> bool:
    """Returns whether a tensor is a buffer, which follows from the model's options."""
    return name.endswith((_PERIODS, _BIAS_MASK))


def told_by_buffers(
    buffers: Mapping[str, np.ndarray], path: str
) -> tuple[dict[str, Any], list[str]]:
    """Returns facts of a model, `head_dim`, `rope` (keys) and `masked_key`, and notes.

    Args:
      buffers: by the names of the file, path for messages.
      path: of the file, for messages.

    Raises:
      UserError: if one holds what no buffer of a model here does.
    """
    told: dict[str, Any] = {}
    masked, notes = set(), []
    for name, buffer in buffers.items():
        if name.endswith(_PERIODS):
            rope, rounded = _rope_of(buffer, name, path)
            told |= {"head_dim": 4 * buffer.size, "rope": rope}
            if rounded:
                notes.append(f"{name} is rounded to bfloat16 there; here it is exact")
        else:
            masked.add(_is_masked(buffer, name, path))
    if len(masked) > 1:
        raise UserError(f"{path} has {_BIAS_MASK} in some blocks otherwise than in others")
    if masked:
        told["masked_key"] = masked == {True}
    return told, notes


def _is_masked(mask: np.ndarray, name: str, path: str) -> bool:
    """Returns whether a mask of the bias of queries, keys and values leaves out that of keys."""
    for masked in (True, False):
        if np.array_equal(mask, np.repeat([1, 1 - masked, 1], mask.size // 3)):
            return masked
    raise UserError(f"{path} has {name}, which leaves out other biases than all of the keys'")


def _rope_of(periods: np.ndarray, name: str, path: str) -> tuple[Flat, bool]:
    """Returns the keys of rotations by their periods, and whether bfloat16 has rounded these.

    The numbers are the roundest that give them.
    """
    periods = periods.reshape(-1).astype(np.float64)
    if periods.size and np.all(np.isfinite(periods) & (periods > 0)):
        for rounded in (False, True):
            for keys in _candidates(periods):
                ours = _rope(4 * periods.size, keys).all_periods()
                if rounded:
                    ours = ours.astype(ml_dtypes.bfloat16).astype(np.float64)
                if np.allclose(ours, periods, rtol=1e-6, atol=0):
                    return keys, rounded
    raise UserError(
        f"{path} has {name} of {', '.join(f'{x:.4g}' for x in periods[:4])}, ..., which follow "
        "from no base, nor from a shortest and a longest period; no model here computes with them"
    )


def _candidates(periods: np.ndarray) -> Iterator[Flat]:
    """Yields keys of rotations that may have these periods, the roundest numbers first."""
    ends, pairs = periods[[0, -1]], periods.size
    base = ends[1] ** (pairs / max(pairs - 1, 1))
    for digits in range(1, 8):
        first, last, whole = (float(f"{x:.{digits}g}") for x in (*ends, base))
        if whole > 1:
            yield {"model.rope_base": whole}
        if pairs > 1:
            yield {"model.rope_min_period": first, "model.rope_max_period": last}
    yield {}


def _rope(head_dim: int, keys: Mapping[str, Any]) -> Rope:
    ends = keys.get("model.rope_min_period", 0.0), keys.get("model.rope_max_period", 0.0)
    return Rope(head_dim, keys.get("model.rope_base", 100.0), ends if ends[1] else ())


def buffers(model: Section, prefix: str) -> dict[str, np.ndarray]:
    """Returns the buffers that DINOv3 has beside the tensors of such a model, float32.

    Args:
      model: the config's section.
      prefix: what stands before their names.
    """
    if model.positions != "rotary":
        return {}
    keys = {f"model.{key}": getattr(model, key) for key in ("rope_base", *_ENDS)}
    periods = _rope(model.width // model.heads, keys).all_periods()
    found = {f"{prefix}{_PERIODS}": periods.astype(np.float32)}
    if model.qkv_bias == "masked_key":
        mask = np.repeat(np.float32([1, 0, 1]), model.width)
        for block in range(model.depth):
            found[f"{prefix}blocks.{block}.attn.{_BIAS_MASK}"] = mask
    return found


def otherwise_in_timm(model: Section) -> str:
    """Returns what timm computes otherwise, on images of the trained size; "" if nothing."""
    rotary = model.positions == "rotary"
    return _first(
        (model.untie_class_norm, "timm has one last norm of all tokens"),
        (rotary and model.qkv_bias == "full", "timm has rotary models without biases of keys only"),
        (rotary and model.qk_norm, "timm has rotary models without norms of queries and keys only"),
        (rotary and model.norm_kind != "layer", "timm has rotary models with LayerNorm only"),
        *_rotations(model, "timm"),
    )


def otherwise_in_transformers(model: Section) -> str:
    """Returns what transformers computes otherwise, on such images; "" if nothing."""
    return _first(
        (model.untie_class_norm, "transformers has one last norm of all tokens"),
        (model.qk_norm, "transformers has no norms of queries and keys"),
        (model.norm_kind != "layer", "transformers has LayerNorm only"),
        *_rotations(model, "transformers"),
    )


def otherwise_in_torch(model: Section) -> str:
    """Returns what DINO, DINOv2 or DINOv3 computes otherwise, on such images; "" if nothing."""
    learned = model.positions == "learned"
    return _first(
        (learned and model.untie_class_norm, "DINOv2 has one last norm of all tokens"),
        (learned and model.norm_kind != "layer", "DINOv2 has LayerNorm only"),
        (model.qk_norm, "neither DINOv2 nor DINOv3 has norms of queries and keys"),
    )


def _first(*cases: tuple[bool, str]) -> str:
    return next((words for is_so, words in cases if is_so), "")


def _rotations(model: Section, library: str) -> list[tuple[bool, str]]:
    if model.positions != "rotary":
        return []
    coordinates = model.rope_coordinates != "separate"
    return [
        (bool(model.rope_max_period), f"{library} has rotary positions by a base only"),
        (coordinates, f"{library} has rotary positions along both sides only (separate)"),
        (model.rope_dtype != "float32", f"{library} has rotary positions in float32 only"),
    ]


def without_key_bias(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Returns tensors, by the original's names, with zeros for biases of keys."""
    return {
        name: np.asarray(tensor) * np.repeat(np.float32([1, 0, 1]), tensor.size // 3)
        if name.endswith(".qkv.bias")
        else tensor
        for name, tensor in tensors.items()
    }


def with_gains(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Returns tensors, by the original's names, with gains of 1 where there is no LayerScale."""
    norm = re.compile(r"(blocks\.\d+\.)norm([12])\.weight")
    gains = {
        f"{match[1]}gamma_{match[2]}": np.ones(tensor.shape, tensor.dtype)
        for name, tensor in tensors.items()
        if (match := norm.fullmatch(name))
    }
    return gains | dict(tensors)


def without_gains(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Multiplies LayerScale's gains into the linear layers before them, by the original's names."""
    scaled = {name: tensor for name, tensor in tensors.items() if ".gamma_" not in name}
    for name, gains in tensors.items():
        block, _, number = name.partition(".gamma_")
        if number:
            layer = f"{block}.{'attn.proj' if number == '1' else 'mlp.fc2'}"
            weight, bias = scaled[f"{layer}.weight"], scaled[f"{layer}.bias"]
            scaled[f"{layer}.weight"] = mapped(lambda x, w: x[:, None] * w, gains, weight)
            scaled[f"{layer}.bias"] = mapped(np.multiply, gains, bias)
    return scaled
