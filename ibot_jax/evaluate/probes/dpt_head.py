"""Depths of pixels from four layers of a backbone: the head of DPT (arXiv 2103.13413, section 3).

As DINOv2 trains it (its `eval/depth/models/decode_heads/dpt_head.py`): regression, no batch
normalisation, the class token read out by projection. The layers of a plain ViT become maps of four
scales; those of a Swin's stages are, and go to the convolutions as they are (as in MiDaS 3.1).
Shape letters: B images, D width of the backbone.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.models.tokens import Tokens
from ibot_jax.models.upernet import resized

Array = jax.Array

LAYERS = 4
_LAST_WIDTH = 32
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # mmcv's
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's


class DPTHead(nn.Module):
    """Tokens of four layers to depths.

    Convolutions are of the device's default precision, as PyTorch's are.

    Attributes:
      nearest: the least depth, metres.
      width: of the convolutions that join the maps.
    """

    nearest: float
    width: int = 256

    @nn.compact
    def __call__(self, layers: Sequence[Tokens]) -> Array:
        """Returns depths [B, 4 h, 4 w], metres, of maps the finest of which are [B, h, w].

        Of a plain ViT, h is four times its rows of patches, of which an odd number counts as one
        more.
        """
        if len({tokens.grid for tokens in layers}) == 1:
            width = layers[-1].sequence.shape[-1]
            maps = [
                Reassembled(number, width // 2 ** (LAYERS - 1 - number), name=f"map_{number}")(x)
                for number, x in enumerate(layers)
            ]
        else:
            maps = [tokens.patches for tokens in layers]
        lateral = [
            _conv(self.width, f"lateral_{number}", bias=False)(x) for number, x in enumerate(maps)
        ]
        x = lateral.pop()
        for number in reversed(range(LAYERS)):
            if lateral and number < LAYERS - 1:
                skipped = resized(lateral.pop(), x.shape[1:3])
                x += Residual(name=f"skipped_{number}")(skipped)
            x = Residual(name=f"fused_{number}")(x)
            # Behind the enlargement in the original, where it comes to the same and takes longer.
            x = nn.Dense(self.width, kernel_init=_INIT, name=f"projected_{number}")(x)
            x = twice(x)
        x = nn.relu(_conv(self.width, "joined")(x))
        x = twice(_conv(self.width // 2, "halved", init=_UNIFORM)(x))
        x = nn.relu(_conv(_LAST_WIDTH, "last", init=_UNIFORM)(x))
        # Starts at one metre: a random start may lie below zero everywhere, and has no gradient.
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        x = nn.Dense(1, kernel_init=zeros, bias_init=ones, name="depth")(x)
        return nn.relu(x[..., 0]) + self.nearest

    def start(self, key: Array, layers: Sequence[Tokens]) -> Any:
        """Returns the parameters as they start, for tokens of such shapes."""
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), layers)
        return jax.jit(self.init)(key, zeros)["params"]

    def depths(self, params: Any, layers: Sequence[Tokens]) -> Array:
        """Returns the depths that parameters make of tokens, see `__call__`."""
        return self.apply({"params": params}, layers)


class Reassembled(nn.Module):
    """The patch tokens of a layer as a map: 4, 2, 1 or half as many a side.

    Attributes:
      number: of the layer, from 0 to 3.
      width: of the map.
    """

    number: int
    width: int

    @nn.compact
    def __call__(self, tokens: Tokens) -> Array:
        """Returns the map [B, scale h, scale w, width]."""
        patches = tokens.patches
        cls = jnp.broadcast_to(tokens.cls[:, None, None], patches.shape)
        both = jnp.concatenate([patches, cls], axis=-1)
        x = nn.Dense(patches.shape[-1], kernel_init=_UNIFORM, name="readout")(both)
        x = nn.gelu(x, approximate=False)
        x = nn.Dense(self.width, kernel_init=_INIT, name="projected")(x)
        if self.number < 2:
            sides = (4 // 2**self.number,) * 2
            return nn.ConvTranspose(
                self.width, sides, sides, kernel_init=_UNIFORM, name="enlarged"
            )(x)
        if self.number == 3:
            return _conv(self.width, "shrunk", init=_UNIFORM, stride=2)(x)
        return x


class Residual(nn.Module):
    """Twice ReLU and a convolution without bias, beside the identity: [B, H, W, D] to the same."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        hidden = _conv(width, "first", bias=False)(nn.relu(x))
        return x + _conv(width, "second", bias=False)(nn.relu(hidden))


def twice(x: Array) -> Array:
    """Returns a map [B, h, w, D] enlarged bilinearly to [B, 2 h, 2 w, D], corners upon corners."""
    sides = x.shape[1:3]
    scales = jnp.array([(2 * side - 1) / (side - 1) if side > 1 else 2.0 for side in sides])
    shape = x.shape[0], *(2 * side for side in sides), x.shape[-1]  # of any number of images
    return jax.image.scale_and_translate(
        x, shape, (1, 2), scales, (1 - scales) / 2, "linear", antialias=False
    )


def _conv(width: int, name: str, *, bias: bool = True, init: Any = _INIT, stride: int = 1):
    """Returns a convolution of 3 x 3 with a margin of one."""
    margin = ((1, 1), (1, 1))
    return nn.Conv(width, (3, 3), stride, margin, use_bias=bias, kernel_init=init, name=name)
