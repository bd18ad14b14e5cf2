"""cuDNN's fused attention, on NVIDIA GPUs from Ampere on; it never writes the weights to memory."""

import jax

from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.heads import split_heads
from ibot_jax.kernels.specs import AttentionSpec, Spec, anything, covers

Array = jax.Array

_KNOWN = {
    **dict.fromkeys(("batch", "tokens", "width", "heads", "scale", "biases"), anything),
    "dtype": ("bfloat16",),
}
_LARGEST_HEAD = 128  # columns


def supports(spec: Spec, device: Device) -> bool:
    """Returns whether `attention` computes this on such a device."""
    return (
        isinstance(spec, AttentionSpec)
        and (device.platform == "gpu" and device.capability >= 8)
        and covers(_KNOWN, spec)
        and (spec.head_dim % 8 == 0 and spec.head_dim <= _LARGEST_HEAD)
    )


def attention(
    query: Array,
    key: Array,
    value: Array,
    biases: dict[str, Array],
    spec: AttentionSpec,
    device: Device,
) -> Array:
    """Does what `kernels.attention.attention` does."""
    del device
    arrays = {"query": query, "key": key, "value": value}
    heads = (split_heads(x, name, biases, spec) for name, x in arrays.items())
    out = jax.nn.dot_product_attention(*heads, scale=spec.scale, implementation="cudnn")
    return out.reshape(query.shape)
