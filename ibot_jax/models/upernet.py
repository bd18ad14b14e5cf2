"""UperNet: classes of pixels from maps of four scales (Xiao et al., arXiv 1807.10221), by mmseg.

The last map is pooled to 1, 2, 3 and 6 cells a side and joined again; from there maps are added up
from the coarsest to the finest, and all are fused at the finest. An auxiliary head of one
convolution helps in training. Shape letters: B images, C classes.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

POOLED = (1, 2, 3, 6)  # cells a side
_DROPOUT = 0.1  # of features, on all pixels of an image at once
_AUXILIARY_WIDTH = 256
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's
_CLASSES_INIT = nn.initializers.normal(0.01)


class UperNet(nn.Module):
    """Maps of four scales to logits.

    Attributes:
      num_classes: C.
      width: of all convolutions within.
      scales: for each map how many times as large it is made: 4, 2, 1 and 0.5 of a plain ViT, whose
        blocks have one grid; None where they are of four scales already, as a Swin's stages are.
      normalized: for each map whether it is layer-normalised here.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    num_classes: int
    width: int
    scales: Sequence[float] | None
    normalized: Sequence[bool]
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Array], train: bool = False) -> tuple[Array, Array]:
        """Returns the logits [B, H, W, C] of the finest scale, and the auxiliary ones of the third.

        Args:
          maps: four of [B, h, w, D].
          train: whether batches are normalised by their own statistics, and features left out; then
            the collection "batch_stats" is mutable and there is a "dropout" key.
        """
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        maps = [
            nn.LayerNorm(1e-6, name=f"norm_{number}", **kwargs)(x) if norm else x
            for number, (x, norm) in enumerate(zip(maps, self.normalized, strict=True))
        ]
        if self.scales is not None:
            maps = [
                Rescaled(scale, name=f"rescaled_{number}", **kwargs)(x, train)
                for number, (x, scale) in enumerate(zip(maps, self.scales, strict=True))
            ]

        def block(x: Array, kernel: int, name: str, width: int = self.width) -> Array:
            return ConvBlock(width, kernel, name=name, **kwargs)(x, train)

        pooled = [
            resized(block(adaptive_mean(maps[3], cells), 1, f"pooled_{cells}"), maps[3].shape[1:3])
            for cells in POOLED
        ]
        lateral = [block(x, 1, f"lateral_{number}") for number, x in enumerate(maps[:3])]
        lateral.append(block(jnp.concatenate([maps[3], *pooled], axis=-1), 3, "joined"))
        for number in (2, 1, 0):
            lateral[number] += resized(lateral[number + 1], lateral[number].shape[1:3])
        smoothed = [block(x, 3, f"smoothed_{number}") for number, x in enumerate(lateral[:3])]
        finest = smoothed[0].shape[1:3]
        fused = jnp.concatenate([resized(x, finest) for x in (*smoothed, lateral[3])], axis=-1)
        found = block(fused, 3, "fused")
        auxiliary = block(maps[2], 3, "auxiliary", _AUXILIARY_WIDTH)

        def classes(x: Array, name: str) -> Array:
            x = nn.Dropout(_DROPOUT, broadcast_dims=(1, 2))(x, deterministic=not train)
            logits = nn.Dense(self.num_classes, kernel_init=_CLASSES_INIT, name=name, **kwargs)(x)
            return logits.astype(jnp.promote_types(self.dtype, jnp.float32))

        return classes(found, "classes"), classes(auxiliary, "auxiliary_classes")


class ConvBlock(nn.Module):
    """A convolution without bias, batch normalisation, and ReLU.

    Attributes:
      width: of the outputs.
      kernel: side of the convolution.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    width: int
    kernel: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [B, H, W, D] to [B, H, W, width]."""
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        sides = (self.kernel, self.kernel)
        x = nn.Conv(self.width, sides, use_bias=False, kernel_init=_INIT, **kwargs)(x)
        return nn.relu(batch_norm(x, train, **kwargs))


class Rescaled(nn.Module):
    """A map at another scale: enlarged by transposed convolutions, as it is, or made smaller.

    Attributes:
      scale: 4, 2, 1 or 0.5.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    scale: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [B, h, w, D] to [B, scale h, scale w, D]."""
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        def twice(x: Array) -> Array:
            sides = (2, 2)
            return nn.ConvTranspose(x.shape[-1], sides, sides, kernel_init=_UNIFORM, **kwargs)(x)

        if self.scale == 0.5:
            return nn.max_pool(x, (2, 2), (2, 2))
        if self.scale == 4:
            x = nn.gelu(batch_norm(twice(x), train, **kwargs), approximate=False)
        return twice(x) if self.scale > 1 else x


def batch_norm(x: Array, train: bool, **kwargs) -> Array:
    """Normalises [B, H, W, D] by the statistics of the batch on all devices, or by those seen.

    To be called within a compact module.
    """
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **kwargs)(x)


def adaptive_mean(x: Array, cells: int) -> Array:
    """Returns the means [B, cells, cells, D] over boxes that cover a map [B, H, W, D].

    Box i of a side of n goes from floor(i n / cells) to ceil((i + 1) n / cells); boxes may overlap.
    """
    for axis in (1, 2):
        side = x.shape[axis]
        edges = [(i * side // cells, -(-(i + 1) * side // cells)) for i in range(cells)]
        means = [
            jax.lax.slice_in_dim(x, start, end, axis=axis).mean(axis, keepdims=True)
            for start, end in edges
        ]
        x = jnp.concatenate(means, axis=axis)
    return x


def resized(x: Array, size: tuple[int, int]) -> Array:
    """Returns a map [B, h, w, D] resized bilinearly to [B, *size, D]."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear", antialias=False)
