"""What every backbone returns, each part by its name, so that no reader knows token positions."""

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Tokens:
    """The tokens of a layer.

    Attributes:
      cls: [B, D], the class token; of a backbone without one, the mean of the patch tokens.
      registers: [B, R, D]; R may be 0.
      patches: [B, h, w, D], as the patches lie in the image.
    """

    cls: Array
    registers: Array
    patches: Array

    def sequence(self) -> Array:
        """Returns [B, 1 + R + h * w, D]: `cls`, registers, and patches row by row.

        B may be several axes.
        """
        *batch, rows, columns, width = self.patches.shape
        patches = self.patches.reshape(*batch, rows * columns, width)
        return jnp.concatenate([self.cls[..., None, :], self.registers, patches], axis=-2)

    def with_sequence(self, x: Array) -> "Tokens":
        """Returns other vectors of these tokens, [B, 1 + R + h * w, D'], by their names.

        B may be several axes.
        """
        first_patch = 1 + self.registers.shape[-2]
        patches = x[..., first_patch:, :].reshape(*self.patches.shape[:-1], x.shape[-1])
        return Tokens(x[..., 0, :], x[..., 1:first_patch, :], patches)


@struct.dataclass
class Attention:
    """The attention weights of a block.

    Attributes:
      cls: [B, heads, h, w], how much the class token attends to each patch; of a backbone without
        one, how much the patches do on average.
      weights: as the block has them, the last axis sums to 1. Of a ViT [B, heads, T, T] between the
        T tokens in the order of `Tokens.sequence`; where patches attend within windows of M,
        [B, windows, heads, M, M].
    """

    cls: Array
    weights: Array
