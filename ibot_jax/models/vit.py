"""The Vision Transformer that iBOT trains: student and teacher backbone (paper, section 4.1)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.kernels import packing
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON, layer_norm_module
from ibot_jax.kernels.specs import PackingSpec
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.block import REMAT_POLICIES, Block, attention_spec, start_of_block
from ibot_jax.models.linear import normal_init
from ibot_jax.models.patch_embed import PatchEmbed
from ibot_jax.models.tokens import Attention, Tokens

Array = jax.Array


def interpolation_matrix(trained: int, wanted: int) -> np.ndarray:
    """Bicubic weights that resample one axis of the position grid as the original does.

    Cubic convolution with a = -0.75, half-pixel centres, borders repeated, no antialiasing, and
    the scale (wanted + 0.1) / trained of the original's interpolate_pos_encoding.

    Args:
      trained: patches along the axis in training.
      wanted: patches along the axis of the input.

    Returns:
      [wanted, trained] float64; every row sums to 1.
    """
    a = -0.75
    source = (np.arange(wanted) + 0.5) * trained / (wanted + 0.1) - 0.5
    base = np.floor(source).astype(int)
    weights = np.zeros((wanted, trained))
    for tap in range(-1, 3):
        d = np.abs(source - (base + tap))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        columns = np.clip(base + tap, 0, trained - 1)
        np.add.at(weights, (np.arange(wanted), columns), np.where(d <= 1, near, far))
    return weights


def resample_positions(
    pos_embed: Array, trained: tuple[int, int], wanted: tuple[int, int]
) -> Array:
    """Resamples positions to another grid of patches; that of the class token stays.

    Args:
      pos_embed: [1, 1 + H * W, D] for the trained grid (H, W).
      trained: (rows, columns) of patches in training.
      wanted: (rows, columns) of patches of the input, (h, w).

    Returns:
      [1, 1 + h * w, D], of the same dtype; where the grids agree, `pos_embed` itself.
    """
    if tuple(wanted) == tuple(trained):
        return pos_embed
    width = pos_embed.shape[-1]
    patches = jnp.einsum(
        "hH,wW,HWd->hwd",
        *(
            interpolation_matrix(*sides).astype(pos_embed.dtype)
            for sides in zip(trained, wanted, strict=True)
        ),
        pos_embed[0, 1:].reshape(*trained, width),
        precision="highest",
    )
    return jnp.concatenate([pos_embed[:, :1], patches.reshape(1, -1, width)], axis=1)


class ViT(nn.Module):
    """A Vision Transformer with class token, mask token and resampled positions.

    Attributes:
      patch_size: side of a patch in pixels.
      width: token dimension, D.
      depth: number of blocks.
      heads: attention heads of a block.
      mlp_ratio: hidden over token dimension of the MLPs.
      layer_scale: initial LayerScale gain; 0 leaves it out.
      grid: (rows, columns) of patches that the positions are trained for.
      norm_eps: added to the variance by the norms.
      kernels: that may compute the blocks; with "packing", sequences are brought to lengths that
        a TPU likes. The outputs are the same.
      remat: "none", or what of each block is kept for the backward pass: "dots", the outputs of
        its linear layers, or "blocks", its input only.
      scan_blocks: whether one loop runs all blocks, so that one block is compiled and not
        `depth`; the parameters are the same tree either way.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    arch = "vit"
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    layer_scale: float
    grid: tuple[int, int]
    norm_eps: float = LAYER_NORM_EPSILON
    kernels: Kernels = XLA
    remat: str = "none"
    scan_blocks: bool = False
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self):
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.patch_embed = PatchEmbed(self.patch_size, self.width, **kwargs)
        self.cls_token = self.param("cls_token", normal_init, (1, 1, self.width), self.param_dtype)
        positions = (1, 1 + self.grid[0] * self.grid[1], self.width)
        self.pos_embed = self.param("pos_embed", normal_init, positions, self.param_dtype)
        zeros = nn.initializers.zeros
        self.mask_token = self.param("mask_token", zeros, (1, self.width), self.param_dtype)
        self.blocks = [self._block() for _ in range(self.depth)]
        self.norm = layer_norm_module(self.norm_eps, **kwargs)

    def _block(self, **kwargs) -> Block:
        return Block(
            heads=self.heads,
            hidden_dim=int(self.width * self.mlp_ratio),
            layer_scale=self.layer_scale,
            norm_eps=self.norm_eps,
            kernels=self.kernels,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            **kwargs,
        )

    def __call__(
        self, images: Array, masks: Array | None = None, gains: Array | None = None
    ) -> Tokens:
        """Computes the normalised output tokens, of `dtype`.

        Args:
          images: [B, H, W, C] floating, normalised; rows and columns that do not fill a patch
            are cut off.
          masks: [B, h, w] bool, True where the mask token replaces the patch; or None.
          gains: [B, depth, 2] of stochastic depth, see `drop_path_gains`; None is 1.
        """
        x = self.norm(self._run_blocks(self._embed(images, masks), gains))
        return Tokens(x, self._grid(images))

    def layers(self, images: Array, wanted: Sequence[int]) -> tuple[Tokens, ...]:
        """Returns the normalised tokens of the wanted blocks, which count from 0, in that order."""
        x = self._embed(images, None)
        outputs = {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in wanted:
                outputs[number] = Tokens(self.norm(x), self._grid(images))
        return tuple(outputs[number] for number in wanted)

    def attention(self, images: Array) -> Attention:
        """Returns the attention weights of the last block."""
        x = self._embed(images, None)
        for block in self.blocks[:-1]:
            x = block(x)
        weights = self.blocks[-1](x, only_attention=True)
        cls = weights[:, :, 0, 1:].reshape(*weights.shape[:2], *self._grid(images))
        return Attention(cls, weights)

    def _grid(self, images: Array) -> tuple[int, int]:
        return geometry_of(self).grid(images.shape[1:3])

    def _run_blocks(self, x: Array, gains: Array | None) -> Array:
        if self.is_initializing() or not self.depth:
            for block in self.blocks:
                x = block(x)
            return x

        if gains is not None:
            gains = gains.transpose(1, 2, 0)[..., None, None]  # [depth, 2, B, 1, 1]
        spec = PackingSpec(attention_spec(x.shape, self.heads, self.dtype))
        if self.kernels.first(spec, packing):
            return self._run_packed(x, gains)
        return self._run_sequences(x, gains)

    def _run_packed(self, x: Array, gains: Array | None) -> Array:
        batch, tokens, _ = x.shape
        if gains is not None:
            shape = (*gains.shape[:3], tokens, 1)
            gains = jax.vmap(jax.vmap(packing.pack))(jnp.broadcast_to(gains, shape))
        x = self._run_sequences(packing.pack(x), gains, packing.owners(tokens))
        return packing.unpack(x, batch, tokens)

    def _run_sequences(self, x: Array, gains: Array | None, owners: tuple[int, ...] = ()) -> Array:
        def run_block(x, params_and_gains):
            params, gains = params_and_gains
            x = start_of_block(x)
            return self._block(parent=None).apply({"params": params}, x, gains, owners), None

        if self.remat != "none":
            run_block = jax.checkpoint(run_block, policy=REMAT_POLICIES[self.remat])
        params = [block.variables["params"] for block in self.blocks]
        if self.scan_blocks:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self._cast, params))
            return jax.lax.scan(run_block, x, (stacked, gains))[0]
        for i in range(self.depth):
            x, _ = run_block(x, (params[i], None if gains is None else gains[i]))
        return x

    def _cast(self, params: dict) -> dict:
        """Casts kernels as their layers will, so that a stack of them is no larger than needed."""
        return jax.tree.map(lambda x: x.astype(self.dtype) if x.ndim > 1 else x, params)

    def _embed(self, images: Array, masks: Array | None) -> Array:
        x = self.patch_embed(images)  # [B, h, w, D]
        batch, rows, columns, width = x.shape
        if masks is not None:
            x = jnp.where(masks[..., None], self.mask_token.astype(self.dtype), x)
        x = x.reshape(batch, rows * columns, width)
        cls = jnp.broadcast_to(self.cls_token.astype(self.dtype), (batch, 1, width))
        return jnp.concatenate([cls, x], axis=1) + self._positions(rows, columns)

    def _positions(self, rows: int, columns: int) -> Array:
        positions = resample_positions(self.pos_embed, self.grid, (rows, columns))
        return positions.astype(self.dtype)
