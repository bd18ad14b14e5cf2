"""What every backbone returns, each part by its name, so that no reader knows token positions."""

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Tokens:
    """The tokens of a layer: one array, as blocks and heads take it, and its parts by name.

    Attributes:
      sequence: [..., 1 + R + h * w, D]: `cls`, registers, and patches row by row.
      grid: (h, w) of the patches.
      num_registers: R.
    """

    sequence: Array
    grid: tuple[int, int] = struct.field(pytree_node=False)
    num_registers: int = struct.field(pytree_node=False, default=0)

    @property
    def cls(self) -> Array:
        """[..., D], the class token; of a backbone without one, the mean of the patch tokens."""
        return self.sequence[..., 0, :]

    @property
    def registers(self) -> Array:
        """[..., R, D]; R may be 0."""
        return self.sequence[..., 1 : 1 + self.num_registers, :]

    @property
    def patches(self) -> Array:
        """[..., h, w, D], as the patches lie in the image."""
        patches = self.sequence[..., 1 + self.num_registers :, :]
        return patches.reshape(*patches.shape[:-2], *self.grid, patches.shape[-1])

    def with_rows(self, rows: Array) -> "Tokens":
        """Returns the same tokens with other numbers, rows [T, U] of all of them."""
        shape = self.sequence.shape[:-1]
        return self.replace(sequence=rows.reshape(*shape, rows.shape[-1]))

    def without_registers(self) -> "Tokens":
        """Returns the others alone."""
        if not self.num_registers:
            return self
        others = jnp.split(self.sequence, [1, 1 + self.num_registers], axis=-2)[::2]
        return Tokens(jnp.concatenate(others, axis=-2), self.grid)

    def of_patches(self, x: Array) -> Array:
        """Returns values of patches [..., h, w] as of all tokens [..., 1 + R + h * w]: others 0."""
        x = x.reshape(*x.shape[:-2], -1)
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1 + self.num_registers, 0)])


@struct.dataclass
class Attention:
    """The attention weights of a block, and the keys that they are of.

    Attributes:
      cls: [B, heads, h, w], how much the class token attends to each patch; of a backbone without
        one, how much the patches do on average.
      weights: as the block has them, the last axis sums to 1. Of a ViT [B, heads, T, T] between the
        T tokens in the order of `Tokens.sequence`; where patches attend within windows of M,
        [B, windows, heads, M, M].
      keys: [B, h, w, D], of the patches, heads side by side, before any norm or rotation of them.
    """

    cls: Array
    weights: Array
    keys: Array
