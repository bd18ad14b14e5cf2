"""The Swin Transformer that iBOT trains: attention in windows, shifted in every other block.

Four stages, between which 2 x 2 tokens merge into one of twice the width (Swin, arXiv 2103.14030,
section 3). As the original of iBOT has it, masks hide cells of output tokens from the first block
on, the class token is the mean of the normalised output tokens, and a window is no larger than its
stage's grid of a global view; a grid that no windows fill is padded.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.kernels.attention import attention_weights
from ibot_jax.kernels.branch import branch, keys, query_key_value, self_attention
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON, layer_norm_module
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.block import (
    REMAT_POLICIES,
    MlpParams,
    attention_spec,
    mlp_spec,
    start_of_block,
)
from ibot_jax.models.geometry import stage_windows
from ibot_jax.models.layer_norm import NormParams
from ibot_jax.models.linear import Linear, LinearParams, normal_init
from ibot_jax.models.patch_embed import PatchEmbed
from ibot_jax.models.tokens import Attention, Tokens
from ibot_jax.parallel.tensor import split_over_tensor

Array = jax.Array

_FAR = -100.0  # added to the attention between regions that only the shift made neighbours


def differences(window: int) -> np.ndarray:
    """Tells the distance of two tokens along one side of a window.

    Returns:
      [window, window, 2 window - 1]: for a query's place and a key's, 1 at their difference plus
      window - 1, else 0.
    """
    place = np.arange(window)
    return np.eye(2 * window - 1)[place[:, None] - place + window - 1]


def shift_mask(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """What is added to the attention within windows of a grid that was rolled by -shift.

    Args:
      grid: (rows, columns) of tokens, multiples of `window`.
      window: tokens along a side of one.
      shift: tokens, fewer than `window` and at least 1.

    Returns:
      [windows, window^2, window^2] float32: 0 between tokens that were neighbours before the roll,
      -100 else.
    """
    regions = (np.digitize(np.arange(side), [side - window, side - shift]) for side in grid)
    rows, columns = regions
    region = to_windows((3 * rows[:, None] + columns)[None, :, :, None], window)[0, ..., 0]
    return np.where(region[:, :, None] == region[:, None], 0, _FAR).astype(np.float32)


def to_windows(x: Array, window: int) -> Array:
    """Cuts [B, H, W, C] into windows, [B, windows, window^2, C], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, window**2, channels)


def from_windows(x: Array, grid: tuple[int, int]) -> Array:
    """Puts windows [B, windows, window^2, C] together again, [B, H, W, C]; H, W = `grid`."""
    batch, _, tokens, channels = x.shape
    window = round(tokens**0.5)
    x = x.reshape(batch, grid[0] // window, grid[1] // window, window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, *grid, channels)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a bias by relative position.

    Attributes:
      heads: attention heads; divides the width.
      window: tokens along a side of one.
      kernels: that may compute it.
      dtype: of the computation; softmax is in float32.
      param_dtype: of the parameters; `relative_bias` [(2 window - 1)^2, heads] has a row for each
        difference of rows, and in it of columns, a query's place minus a key's.
    """

    heads: int
    window: int
    kernels: Kernels
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Array, mask: np.ndarray | None = None, only_attention: bool = False
    ) -> Array | tuple[Array, Array]:
        """Maps [B, windows, T, D] to the same.

        Or to attention weights [B, windows, heads, T, T] and keys [B, windows, T, D].

        `mask` [windows, T, T] is added to the logits.
        """
        batch, windows, tokens, width = shape = x.shape
        spec = dataclasses.replace(
            attention_spec((batch * windows, tokens, width), self.heads, self.dtype),
            positions="relative",
            windows=0 if mask is None else windows,
        )
        params = {
            "qkv": LinearParams(3 * width, self.param_dtype, name="qkv")(width),
            "proj": LinearParams(width, self.param_dtype, name="proj")(width),
        }
        operands = dict(position_bias=self._position_bias(), mask=mask)
        x = x.reshape(-1, width)
        if only_attention:
            own_keys = keys(x, params, spec).reshape(shape)
            (query, key, _), biases, spec = query_key_value(x, params, spec)
            weights = attention_weights(query, key, biases, spec, **operands)
            return weights.reshape(batch, windows, *weights.shape[1:]), own_keys
        return self_attention(x, params, spec, self.kernels, **operands).reshape(shape)

    def _position_bias(self) -> Array:
        """Returns the bias of queries and keys, [heads, T, T]."""
        side = 2 * self.window - 1
        shape = (side**2, self.heads)
        table = self.param("relative_bias", normal_init, shape, self.param_dtype)
        # As two products: a TPU gathers, and adds up the gradients of what it gathered, slowly.
        places = differences(self.window).astype(self.param_dtype)
        bias = jnp.einsum(
            "qkr,xyc,rch->hqxky",
            places,
            places,
            table.reshape(side, side, self.heads),
            precision="highest",
        )
        return bias.reshape(self.heads, self.window**2, self.window**2)


class SwinBlock(nn.Module):
    """A pre-norm block whose tokens attend to those of their window, with stochastic depth.

    A grid that no windows fill is padded after the first norm, with zeros on the right and at the
    bottom; they take part as keys.

    Attributes:
      heads: attention heads.
      hidden_dim: of the MLP.
      window: tokens along a side of a window.
      shift: tokens by which the windows are shifted.
      norm_eps: added to the variance by the norms.
      kernels: that may compute it.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    hidden_dim: int
    window: int
    shift: int
    norm_eps: float
    kernels: Kernels
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    def setup(self):
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.norm1 = layer_norm_module(self.norm_eps, **kwargs)
        self.attn = WindowAttention(self.heads, self.window, self.kernels, **kwargs)
        self.norm2 = NormParams(self.param_dtype)
        self.mlp = MlpParams(self.hidden_dim, self.param_dtype)

    def __call__(self, x: Array, gains: Array | None = None) -> Array:
        """Maps [B, H, W, D] to the same; `gains` [2, B] multiply the two branches' outputs."""
        x = start_of_block(x)
        grid = x.shape[1:3]
        windows = self.attn(self._windows(self.norm1(x)), self._mask(grid))
        out = self._whole(windows, grid)
        if gains is not None:
            out = out * gains[0][:, None, None, None].astype(self.dtype)
        x = split_over_tensor(x + out, None)
        return self._add_mlp(x.reshape(-1, x.shape[-1]), gains).reshape(x.shape)

    def _add_mlp(self, x: Array, gains: Array | None) -> Array:
        rows, width = x.shape
        params = {"norm": self.norm2(width), **self.mlp(width)}
        sizes = (rows, width, self.hidden_dim)
        spec = mlp_spec(*sizes, self.dtype, self.norm_eps, gains=gains is not None)
        if gains is not None:  # of the images, to those of their tokens
            gains = jnp.broadcast_to(gains[1][:, None], (len(gains[1]), rows // len(gains[1])))
            gains = gains.reshape(-1, 1)
        return branch(x, params, spec, self.kernels, gains)

    def attention(self, x: Array) -> Attention:
        """Returns how the tokens of [B, H, W, D] attend to those of their window."""
        grid = x.shape[1:3]
        windows = self._windows(self.norm1(x))
        weights, own_keys = self.attn(windows, self._mask(grid), only_attention=True)
        # The mean over all queries, which are no padding.
        queries = self._windows(jnp.ones((1, *grid, 1), weights.dtype))[0, ..., 0]
        received = jnp.einsum("nq,bnhqk->bnkh", queries / queries.sum(), weights)
        cls = self._whole(received, grid).transpose(0, 3, 1, 2)
        return Attention(cls, weights, self._whole(own_keys, grid))

    def _windows(self, x: Array) -> Array:
        """Pads and shifts [B, H, W, C]; returns its windows, [B, windows, window^2, C]."""
        missing = [(0, -side % self.window) for side in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), *missing, (0, 0)))
        return to_windows(jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2)), self.window)

    def _whole(self, windows: Array, grid: tuple[int, int]) -> Array:
        """Undoes `_windows`; returns [B, H, W, C] with H, W = `grid`."""
        x = from_windows(windows, self._padded(grid))
        x = jnp.roll(x, (self.shift, self.shift), axis=(1, 2))
        return x[:, : grid[0], : grid[1]]

    def _mask(self, grid: tuple[int, int]) -> np.ndarray | None:
        return shift_mask(self._padded(grid), self.window, self.shift) if self.shift else None

    def _padded(self, grid: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (side + -side % self.window for side in grid)
        return rows, columns


class PatchMerging(nn.Module):
    """Makes one token of twice the width of 2 x 2 tokens: LayerNorm of all four, a linear layer."""

    norm_eps: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, D] to [B, ceil(H / 2), ceil(W / 2), 2 D]; odd grids get zeros."""
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # The tokens of a column follow each other: (even, even), (odd, even), (even, odd), ...
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        x = layer_norm_module(self.norm_eps, **kwargs, name="norm")(x)
        return Linear(2 * channels, use_bias=False, name="reduction", **kwargs)(x)


class Stage(nn.Module):
    """Blocks on one grid of tokens; every other one shifts its windows.

    Attributes:
      depth: number of blocks.
      shift: tokens by which every other block shifts its windows.
      merges: whether a patch merging follows.
      remat: see `Swin`.
      block: all other attributes of a `SwinBlock`.
    """

    depth: int
    shift: int
    merges: bool
    remat: str
    block: dict

    def setup(self):
        module = SwinBlock
        if self.remat != "none":
            module = nn.remat(SwinBlock, policy=REMAT_POLICIES[self.remat])
        self.blocks = [
            module(shift=self.shift * (number % 2), **self.block) for number in range(self.depth)
        ]
        if self.merges:
            shared = ("norm_eps", "dtype", "param_dtype")
            self.merge = PatchMerging(**{name: self.block[name] for name in shared})


class Swin(nn.Module):
    """A Swin Transformer with mask token.

    Attributes:
      patch_size: side of a patch in pixels.
      width: token dimension of the first stage, which doubles with every other.
      stage_depths: number of blocks of each stage.
      stage_heads: attention heads of each stage.
      window: tokens along a side of a window.
      mlp_ratio: hidden over token dimension of the MLPs.
      grid: (rows, columns) of patches of a global view, which bound the windows.
      norm_eps: added to the variance by the norms.
      kernels: that may compute the blocks.
      remat: "none", or what of each block is kept for the backward pass: "dots", the outputs of
        its linear layers, or "blocks", its input only.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    arch = "swin"
    patch_size: int
    width: int
    stage_depths: tuple[int, ...]
    stage_heads: tuple[int, ...]
    window: int
    mlp_ratio: float
    grid: tuple[int, int]
    norm_eps: float = LAYER_NORM_EPSILON
    kernels: Kernels = XLA
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self):
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.patch_embed = PatchEmbed(self.patch_size, self.width, **kwargs)
        self.patch_norm = layer_norm_module(self.norm_eps, **kwargs)
        zeros = nn.initializers.zeros
        self.mask_token = self.param("mask_token", zeros, (1, self.width), self.param_dtype)
        self.stages = [self._stage(number, kwargs) for number in range(len(self.stage_depths))]
        self.norm = layer_norm_module(self.norm_eps, **kwargs)

    def _stage(self, number: int, kwargs: dict) -> Stage:
        window, shift = stage_windows(self.window, self.grid, len(self.stage_depths))[number]
        block = dict(
            heads=self.stage_heads[number],
            hidden_dim=geometry_of(self).hidden[number],
            window=window,
            norm_eps=self.norm_eps,
            kernels=self.kernels,
        )
        return Stage(
            depth=self.stage_depths[number],
            shift=shift,
            merges=number < len(self.stage_depths) - 1,
            remat=self.remat,
            block=block | kwargs,
        )

    def __call__(
        self,
        images: Array,
        masks: Array | None = None,
        gains: Array | None = None,
        local: bool = False,
    ) -> Tokens:
        """Computes the normalised output tokens.

        Args:
          images: [B, H, W, C] floating, normalised; rows and columns that do not fill a patch
            are cut off.
          masks: [B, h, w] bool on the grid of output tokens, True where the mask token replaces
            all that an output token begins from; or None.
          gains: [B, depth, 2] of stochastic depth, over the blocks of all stages; None is 1.
          local: whether these are local views of training, which are like all others here.

        Returns:
          Tokens of `dtype`; the class token is the mean of the patch tokens.
        """
        del local
        *_, (_, _, x) = self._run(images, masks, gains)
        return _tokens(self.norm(x))

    def together(self, several: Sequence[dict[str, Any]]) -> list[Tokens]:
        """Computes the output tokens of several calls, as `ViT.together` does."""
        return [self(**call) for call in several]

    def layers(
        self,
        images: Array,
        wanted: Sequence[int],
        normalized: bool = True,
        gains: Array | None = None,
    ) -> tuple[Tokens, ...]:
        """Returns the tokens of the wanted blocks, in that order; blocks count over all stages.

        Those of the last stage are normalised, or none. `gains` as of a call.
        """
        others = sum(self.stage_depths[:-1])  # blocks of stages whose width is not that of the norm
        others = others if normalized else sum(self.stage_depths)
        outputs = [x for _, _, x in self._run(images, gains=gains)]
        return tuple(
            _tokens(self.norm(outputs[number]) if number >= others else outputs[number])
            for number in wanted
        )

    def attention(self, images: Array) -> Attention:
        """Returns the attention weights of the last block, and its keys."""
        *_, (block, x, _) = self._run(images)
        return block.attention(x)

    def _run(
        self, images: Array, masks: Array | None = None, gains: Array | None = None
    ) -> Iterator[tuple[SwinBlock, Array, Array]]:
        """Yields each block, its input and its output, [B, H, W, D] of its stage."""
        x = self._embed(images, masks)
        number = 0
        for stage in self.stages:
            for block in stage.blocks:
                y = block(x, None if gains is None else gains[:, number].T)
                yield block, x, y
                x, number = y, number + 1
            if stage.merges:
                x = stage.merge(x)

    def _embed(self, images: Array, masks: Array | None) -> Array:
        x = self.patch_norm(self.patch_embed(images))
        if masks is not None:
            cell = 2 ** (len(self.stage_depths) - 1)  # patches along a side of an output token
            masks = masks.repeat(cell, axis=1).repeat(cell, axis=2)[:, : x.shape[1], : x.shape[2]]
            x = jnp.where(masks[..., None], self.mask_token.astype(self.dtype), x)
        return x


def _tokens(patches: Array) -> Tokens:
    """Names patch tokens [B, h, w, D], and their mean the class token."""
    batch, rows, columns, width = patches.shape
    mean = patches.mean(axis=(1, 2))[:, None]
    sequence = jnp.concatenate([mean, patches.reshape(batch, -1, width)], axis=1)
    return Tokens(sequence, (rows, columns))
