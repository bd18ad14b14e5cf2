"""A backbone whose tokens are sums of its inputs, so that each can be told from the others."""

import dataclasses

import jax.numpy as jnp

from ibot_jax.models.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Sums:
    """Patches of 2 x 2 pixels: the first pixel of each, -1 where masked; three channels."""

    arch: str = "vit"
    patch_size: int = 2
    width: int = 3
    depth: int = 1
    heads: int = 1
    hidden_dim: int = 1
    ffn: str = "mlp"
    registers: int = 0

    def apply(self, variables, inputs, method=None):
        """Runs on images, or as `together` on several calls."""
        if method == "together":
            return [self.tokens(variables, **one) for one in inputs]
        return self.tokens(variables, inputs)

    def tokens(self, variables, images, masks=None, gains=None, **training):
        cls = variables["params"] * images.sum((1, 2))  # [N, 3]
        if gains is not None:
            cls = cls + gains.sum((1, 2))[:, None]
        patches = images[:, ::2, ::2].reshape(len(images), -1, 3)
        if masks is not None:
            patches = jnp.where(masks.reshape(len(images), -1)[..., None], -1, patches)
        grid = images.shape[1] // 2, images.shape[2] // 2
        return Tokens(jnp.concatenate([cls[:, None], patches], axis=1), grid)
