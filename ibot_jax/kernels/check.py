"""Whether an implementation computes what its definition says, on the device at hand.

Values and gradients are compared with those of the definition in float32, as far as the definition
in the implementation's dtype is from it: an implementation may be somewhat further, not more.

A definition needs more memory than what it defines, and may not fit where the kernel does: of a
large batch so many rows are compared as a definition's largest array may hold.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ibot_jax.kernels import packing
from ibot_jax.kernels.attention import attention
from ibot_jax.kernels.branch import branch
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.color_table import COLUMNS, JITTER
from ibot_jax.kernels.colors import apply_colors
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.linear import matmul_precision
from ibot_jax.kernels.specs import (
    AttentionBranchSpec,
    AttentionSpec,
    ColorsSpec,
    MlpBranchSpec,
    PackingSpec,
    Spec,
)

Array = jax.Array
Operands = dict[str, Any]  # floating arrays that are differentiated by, nested

_FACTOR, _FLOOR = 2, 2**-8  # of the definition's own deviation; bfloat16 rounds by as much
_MOST_BYTES = 1e-3  # of changed views may differ: divisions that do not round as IEEE 754 says
_MOST_NUMBERS = 2**27  # of an array of a definition: half a GiB, of which it needs a few
_LAYERS = {AttentionBranchSpec: ("qkv", "proj"), MlpBranchSpec: ("fc1", "fc2")}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    Deviations are the largest of an array over its largest number, in float32; of colours the share
    of bytes that differ. They are None where there is nothing to compare.

    Attributes:
      name: of the implementation.
      spec: what it computed, see `within_memory`.
      values: deviation of the output.
      gradients: largest deviation of a gradient.
      allowed: the deviations that may be, of values and gradients.
      problem: why it is not to be taken, in words; "" if it is.
    """

    name: str
    spec: Spec
    values: float | None = None
    gradients: float | None = None
    allowed: tuple[float | None, float | None] = (None, None)
    problem: str = ""


class _NotRunError(Exception):
    """An implementation does not run, by its fault."""


def compare(name: str, spec: Spec, device: Device) -> Verdict:
    """Runs an implementation and its definition on this process's first device.

    It raises nothing: whatever goes wrong is a verdict, for other processes wait for it.

    Args:
      name: of the implementation, as in `Kernels.names`; it supports the specification.
      spec: of the computation.
      device: for which it is chosen.
    """
    spec = within_memory(spec)
    found = _compare_colors if isinstance(spec, ColorsSpec) else _compare_arrays
    try:
        return found(name, spec, Kernels((name,), device))
    except _NotRunError as error:
        problem = f"it does not run: {error}"
    except Exception as error:  # such as a lack of memory
        problem = f"it cannot be compared here: {_first_line(error)}"
    return Verdict(name, spec, problem=problem)


def within_memory(spec: Spec) -> Spec:
    """Returns a specification of the same on so few rows that its definition can be run, too."""
    match spec:
        case ColorsSpec():
            field, numbers = "views", spec.height * spec.width * spec.channels
        case MlpBranchSpec():
            field, numbers = "rows", max(spec.width, spec.hidden)
        case AttentionSpec():
            field, numbers = "batch", spec.tokens * max(spec.heads * spec.tokens, 3 * spec.width)
        case AttentionBranchSpec() | PackingSpec():
            return dataclasses.replace(spec, attention=within_memory(spec.attention))
    rows = min(getattr(spec, field), max(_MOST_NUMBERS // numbers, 1))
    return dataclasses.replace(spec, **{field: rows})


def in_dtype(spec: Spec, dtype: str) -> Spec:
    """Returns a specification of the same in another dtype."""
    if isinstance(spec, AttentionBranchSpec | PackingSpec):
        return dataclasses.replace(spec, attention=in_dtype(spec.attention, dtype))
    return dataclasses.replace(spec, dtype=dtype)


def shape_of(spec: Spec) -> tuple[int, ...]:
    """Returns the shape of what a specification's computation changes."""
    match spec:
        case ColorsSpec():
            return spec.views, spec.height, spec.width, spec.channels
        case MlpBranchSpec():
            return spec.rows, spec.width
        case AttentionBranchSpec() | PackingSpec():
            return shape_of(spec.attention)
    return spec.batch, spec.tokens, spec.width


def dtype_of(spec: Spec) -> str:
    """Returns the dtype of what a specification's computation changes."""
    if isinstance(spec, AttentionBranchSpec | PackingSpec):
        return dtype_of(spec.attention)
    return "uint8" if isinstance(spec, ColorsSpec) else spec.dtype


def _compare_arrays(name: str, spec: Spec, kernels: Kernels) -> Verdict:
    function, operands = _FUNCTIONS[type(spec)], jax.jit(_draw, static_argnums=0)(spec)
    exact = _outcome(function, in_dtype(spec, "float32"), XLA, operands)
    own = _deviations(_outcome(function, spec, XLA, operands), exact)
    if not all(map(math.isfinite, own)):  # from which nothing deviates
        raise FloatingPointError("what defines it is not finite")
    with _its_own():
        found = _deviations(_outcome(function, spec, kernels, operands), exact)
    allowed = [_FACTOR * deviation + _FLOOR for deviation in own]
    exceeds = [deviation > most for deviation, most in zip(found, allowed, strict=True)]
    parts = {"values": exceeds[0], "gradients": any(exceeds[1:])}
    wrong = " and ".join(part for part, exceeding in parts.items() if exceeding)
    worst = max(range(1, len(found)), key=lambda i: found[i] / allowed[i])
    return Verdict(
        name,
        spec,
        values=found[0],
        gradients=found[worst],
        allowed=(allowed[0], allowed[worst]),
        problem=f"its {wrong} deviate from XLA's" if wrong else "",
    )


@contextlib.contextmanager
def _its_own() -> Iterator[None]:
    """Blames the implementation for an error: of the compiler, the device, or its own code."""
    try:
        yield
    except Exception as error:
        raise _NotRunError(_first_line(error)) from error


def _outcome(function: Callable, spec: Spec, kernels: Kernels, operands: Operands) -> list[Array]:
    """Returns the output, and the gradients of its product with a random array."""

    @jax.jit
    def run(operands):
        run_spec = functools.partial(function, spec=spec, kernels=kernels)
        out, gradients_of = jax.vjp(run_spec, operands)
        direction = jax.random.normal(jax.random.key(1), out.shape, jnp.bfloat16)
        return jax.tree.leaves((out, gradients_of(direction.astype(out.dtype))))

    with jax.default_matmul_precision(matmul_precision(dtype_of(spec))):
        return run(operands)


@jax.jit
def _largest(found: list[Array], expected: list[Array]) -> list[Array]:
    def deviation(x, y):
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        largest = abs(x - y).max() / jnp.maximum(abs(y).max(), 1e-30)
        return jnp.where(jnp.isfinite(x).all(), largest, jnp.inf)  # max may pass over NaN

    return jax.tree.map(deviation, found, expected)


def _deviations(found: list[Array], expected: list[Array]) -> list[float]:
    return [float(deviation) for deviation in _largest(found, expected)]


def _draw(spec: Spec) -> Operands:
    """Draws operands that lead to attention far from uniform and hidden units of either sign."""
    keys = iter(jax.random.split(jax.random.key(0), 16))

    def normal(*shape, dtype=jnp.float32):
        return jax.random.normal(next(keys), shape, dtype)

    dtype, shape = jnp.dtype(dtype_of(spec)), shape_of(spec)
    if isinstance(spec, AttentionSpec | PackingSpec):
        heads = {name: normal(*shape, dtype=dtype) for name in ("query", "key", "value")}
        return heads | {"biases": normal(3, shape[-1]) / 2}
    width = shape[-1]
    hidden, outputs = (spec.hidden,) * 2 if isinstance(spec, MlpBranchSpec) else (width, 3 * width)
    first, second = _LAYERS[type(spec)]
    params = {
        "norm": {"scale": 1 + normal(width) / 4, "bias": normal(width) / 4},
        first: {"kernel": normal(width, outputs) / width**0.5, "bias": normal(outputs) / 2},
        second: {"kernel": normal(hidden, width) / hidden**0.5, "bias": normal(width) / 2},
    }
    if spec.layer_scale:
        params["layer_scale"] = normal(width)
    rows = shape[0] if isinstance(spec, MlpBranchSpec) else shape[0] * shape[1]
    return {"x": normal(rows, width, dtype=dtype), "params": params}


def _attention(operands: Operands, spec: AttentionSpec, kernels: Kernels) -> Array:
    arrays = (operands[name].astype(spec.dtype) for name in ("query", "key", "value"))
    biases = dict(zip(("query", "key", "value"), operands["biases"], strict=True))
    return attention(*arrays, biases, spec, kernels)


def _packed(operands: Operands, spec: PackingSpec, kernels: Kernels) -> Array:
    """Attends with or without packing, by XLA."""
    if kernels.first(spec, packing) is None:
        return _attention(operands, spec.attention, XLA)
    batch, tokens, _ = shape_of(spec)
    arrays = {name: packing.pack(operands[name]) for name in ("query", "key", "value")}
    sizes = dict(zip(("batch", "tokens"), arrays["query"].shape[:2], strict=True))
    packed = dataclasses.replace(spec.attention, owners=packing.owners(tokens), **sizes)
    return packing.unpack(_attention(operands | arrays, packed, XLA), batch, tokens)


def _branch(
    operands: Operands, spec: AttentionBranchSpec | MlpBranchSpec, kernels: Kernels
) -> Array:
    x = operands["x"].astype(dtype_of(spec))
    gains = None
    if spec.gains:
        gains = jax.random.bernoulli(jax.random.key(2), 0.8, (len(x), 1)) / jnp.float32(0.8)
    return branch(x, operands["params"], spec, kernels, gains)


_FUNCTIONS = {
    AttentionSpec: _attention,
    PackingSpec: _packed,
    AttentionBranchSpec: _branch,
    MlpBranchSpec: _branch,
}


def _compare_colors(name: str, spec: ColorsSpec, kernels: Kernels) -> Verdict:
    views = jax.random.bits(jax.random.key(0), shape_of(spec), jnp.uint8)
    rows = _draw_rows(spec)
    definition, implementation = (
        jax.jit(
            functools.partial(apply_colors, max_blur_radius=spec.max_blur_radius, kernels=taken)
        )
        for taken in (XLA, kernels)
    )
    expected = jax.block_until_ready(definition(views, rows))
    with _its_own():
        differ = float((implementation(views, rows) != expected).mean())
    problem = "" if differ <= _MOST_BYTES else "its bytes are not XLA's"
    return Verdict(name, spec, values=differ, allowed=(_MOST_BYTES, None), problem=problem)


def _draw_rows(spec: ColorsSpec) -> Array:
    """Draws what happens to each view, [views, 12], all operations in all orders among them."""
    keys = jax.random.split(jax.random.key(1), len(COLUMNS))
    columns = {
        name: jax.random.uniform(key, (spec.views,))
        for name, key in zip(COLUMNS, keys, strict=True)
    }
    for name in ("flip", "gray", "solarize"):
        columns[name] = (columns[name] < 0.3).astype(jnp.float32)
    columns["blur_radius"] *= spec.max_blur_radius
    columns["hue"] = columns["hue"] / 2 - 0.25
    for name in ("brightness", "contrast", "saturation"):
        columns[name] += 0.5
    places = jnp.argsort(jnp.stack([columns[f"{name}_place"] for name in JITTER], axis=1), axis=1)
    for number, name in enumerate(JITTER):
        columns[f"{name}_place"] = places[:, number].astype(jnp.float32)
    return jnp.stack([columns[name] for name in COLUMNS], axis=1)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
