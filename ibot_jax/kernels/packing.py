"""Token sequences of lengths that a TPU likes: short ones share one, and zeros fill up the rest.

A TPU multiplies 128 x 128 tiles: attention among the 37 tokens of a local view costs it as much as
among 128. It stores rows by the 8: sequences of other lengths cannot be taken for one table of all
their tokens, as linear layers do, without being copied.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import PackingSpec, Spec, anything, covers

Array = jax.Array

_SHARED = 128  # tokens: longest sequence that several share
_ROWS = 8  # tokens: what the length of a sequence is a multiple of
_SEQUENCES = 8  # that kernels can take at a time: a multiple of them, where they are joined anyway


_KNOWN = {
    **dict.fromkeys(("batch", "tokens", "width", "heads", "scale", "biases"), anything),
    "dtype": ("bfloat16", "float32"),
}


def supports(spec: Spec, device: Device) -> bool:
    """Returns whether such sequences are better packed on such a device."""
    return (
        isinstance(spec, PackingSpec)
        and (device.platform == "tpu" and not device.partitioned)
        and covers({"attention": lambda attention: covers(_KNOWN, attention)}, spec)
    )


def sequences_together(tokens: int) -> int:
    """Returns how many sequences of so many tokens share one."""
    return max(_SHARED // tokens, 1)


def pack(x: Array) -> Array:
    """Joins sequences if short, [B, T, D] to [B', T', D]; zeros fill up the last and all ends."""
    batch, tokens, width = x.shape
    together = sequences_together(tokens)
    whole = together * _SEQUENCES if together > 1 else 1
    x = jnp.pad(x, ((0, -batch % whole), (0, 0), (0, 0)))
    x = x.reshape(-1, together * tokens, width)
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % _ROWS), (0, 0)))


def unpack(x: Array, batch: int, tokens: int) -> Array:
    """Takes sequences apart that `pack` joined, [B', T', D] to [B, T, D]."""
    x = x[:, : sequences_together(tokens) * tokens]
    return x.reshape(-1, tokens, x.shape[-1])[:batch]


def owners(tokens: int) -> tuple[int, ...]:
    """Returns which sequence each token of a packed one belongs to, T' numbers; -1 fills up.

    A token attends to those of the same owner.
    """
    together = sequences_together(tokens)
    used = together * tokens
    return (*np.repeat(np.arange(together), tokens).tolist(), *[-1] * (-used % _ROWS))
