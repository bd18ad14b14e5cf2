"""What a computation is, in full: the specifications by which implementations say what they can.

A specification holds shapes, dtypes and options as plain hashable values. An option has a default
at which it is off, so that a specification with a new one says the same as before while it is off.
An implementation lists what it knows (`covers`): an option that it does not list has to be off, a
value that it does not list is not taken. What no implementation takes is computed by XLA.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

Known = Mapping[str, Collection[Any] | Callable[[Any], bool]]

QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Multi-head self-attention, softmax(scale q k' + positions + mask) v of each head.

    Attributes:
      batch: sequences.
      tokens: of a sequence.
      width: of a token, of all heads side by side.
      heads: they divide the width.
      dtype: of queries, keys, values and outputs; the softmax is at least float32.
      scale: of the products of queries and keys.
      biases: which of "query", "key" and "value" still have a bias added.
      owners: by token, where given: a token attends to those of the same owner only, which are
        neighbours.
      positions: "none"; "relative": to the scores is added a bias [heads, tokens, tokens]; or
        "rotary": queries and keys of the last tokens are rotated (`rotary.rotate`).
      windows: where not 0, sequences are so many windows of an image, in order, and to the scores
        is added a mask [windows, tokens, tokens].
      head_norm: "none", or the norm of each head's queries and keys, before they are rotated, as
        `AttentionBranchSpec.norm` has it.
      head_norm_epsilon: added to the variance by that norm.
    """

    batch: int
    tokens: int
    width: int
    heads: int
    dtype: str
    scale: float
    biases: tuple[str, ...] = ()
    owners: tuple[int, ...] = ()
    positions: str = "none"
    windows: int = 0
    head_norm: str = "none"
    head_norm_epsilon: float = 0.0

    @property
    def head_dim(self) -> int:
        """Columns of a head."""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class AttentionBranchSpec:
    """x + gains * layer_scale * proj(attention(qkv(norm(x)))).

    Attributes:
      attention: among the normalised tokens.
      norm: "layer", LayerNorm, or "rms", RMSNorm.
      epsilon: added to the variance by the norm.
      layer_scale: whether the branch is multiplied by a parameter, of each column.
      gains: whether it is multiplied by gains, of each token.
    """

    attention: AttentionSpec
    norm: str
    epsilon: float
    layer_scale: bool = False
    gains: bool = False


@dataclasses.dataclass(frozen=True)
class MlpBranchSpec:
    """x + gains * layer_scale * fc2(activation(fc1(norm(x)))).

    With "swiglu" the activations are silu(gate(norm(x))) * value(norm(x)).

    Attributes:
      rows: tokens of all sequences.
      width: of a token.
      hidden: units.
      dtype: of tokens and products.
      activation: "gelu" or "swiglu".
      norm: "layer", LayerNorm, or "rms", RMSNorm.
      epsilon: added to the variance by the norm.
      layer_scale: whether the branch is multiplied by a parameter, of each column.
      gains: whether it is multiplied by gains, of each token.
    """

    rows: int
    width: int
    hidden: int
    dtype: str
    activation: str
    norm: str
    epsilon: float
    layer_scale: bool = False
    gains: bool = False


@dataclasses.dataclass(frozen=True)
class ColorsSpec:
    """The changes of colours of views of 8 bits (`colors.apply_colors`).

    Attributes:
      views: how many.
      height: in pixels.
      width: in pixels.
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA).
      max_blur_radius: no blur has a larger standard deviation, pixels.
    """

    views: int
    height: int
    width: int
    channels: int
    max_blur_radius: float


@dataclasses.dataclass(frozen=True)
class PackingSpec:
    """The joining of sequences for attention (`packing.pack`).

    Attributes:
      attention: among the tokens of a sequence as it is.
    """

    attention: AttentionSpec


Spec = AttentionSpec | AttentionBranchSpec | MlpBranchSpec | ColorsSpec | PackingSpec


def covers(known: Known, spec: Spec) -> bool:
    """Returns whether what an implementation knows has all that a specification says.

    Args:
      known: by field the values that it takes, or a function that tells; a field that is not
        listed has to be at its default, at which it is off.
      spec: the specification.
    """
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name not in known:
            if value != field.default:  # a field without default is not off at any value
                return False
            continue
        takes = known[field.name]
        if not (takes(value) if callable(takes) else value in takes):
            return False
    return True


def anything(_: Any) -> bool:
    """Says that a field may have any value, in `covers`."""
    return True
