"""The Vision Transformer that iBOT trains: student and teacher backbone (paper, section 4.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# What timm and the original call trunc_normal_(std=0.02) cuts at 100 standard deviations.
_init = nn.initializers.normal(0.02)


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


def layer_norm(name: str | None, dtype: jnp.dtype, param_dtype: jnp.dtype) -> nn.LayerNorm:
    """LayerNorm with the original's epsilon and two-pass variance, statistics in float32."""
    return nn.LayerNorm(
        epsilon=1e-6, use_fast_variance=False, dtype=dtype, param_dtype=param_dtype, name=name
    )


class PatchEmbed(nn.Module):
    """Cuts images into patches and maps each linearly: a convolution with stride patch_size.

    Attributes:
      patch_size: side of a patch in pixels.
      width: token dimension, D.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    patch_size: int
    width: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps [B, H, W, C] images to [B, h, w, D] patch embeddings."""
        p = self.patch_size
        batch, height, width, channels = images.shape
        rows, columns = height // p, width // p
        x = images[:, : rows * p, : columns * p].astype(self.dtype)
        x = x.reshape(batch, rows, p, columns, p, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows, columns, p * p * channels)

        def torch_conv_init(key, shape, dtype):
            # PyTorch's default for weight and bias: uniform within 1 / sqrt(fan_in).
            bound = (p * p * channels) ** -0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return nn.Dense(
            self.width,
            name="proj",
            kernel_init=torch_conv_init,
            bias_init=torch_conv_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(x)


class Attention(nn.Module):
    """Multi-head self-attention; softmax in float32.

    Attributes:
      heads: attention heads; divides the width.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps [B, T, D] tokens to ([B, T, D] tokens, [B, heads, T, T] attention weights)."""
        batch, tokens, width = x.shape

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(
                features,
                name=name,
                kernel_init=_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

        qkv = dense(3 * width, "qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scale = (width // self.heads) ** -0.5
        logits = jnp.einsum("bqhd,bkhd->bhqk", query * scale, key)
        weights = jax.nn.softmax(logits.astype(jnp.promote_types(self.dtype, jnp.float32)))
        weights = weights.astype(self.dtype)
        x = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, tokens, width)
        return dense(width, "proj")(x), weights


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    hidden_dim: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, T, D] tokens to [B, T, D]."""
        kwargs = dict(kernel_init=_init, dtype=self.dtype, param_dtype=self.param_dtype)
        hidden = nn.gelu(nn.Dense(self.hidden_dim, name="fc1", **kwargs)(x), approximate=False)
        return nn.Dense(x.shape[-1], name="fc2", **kwargs)(hidden)


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth and optional LayerScale.

    Attributes:
      heads: attention heads.
      hidden_dim: of the MLP.
      drop_path: probability, per sample and branch, of skipping a branch in training.
      layer_scale: initial gain of each branch's output; 0 leaves LayerScale out.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    hidden_dim: int
    drop_path: float
    layer_scale: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Maps [B, T, D] tokens to ([B, T, D] tokens, [B, heads, T, T] attention weights)."""
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        branch = layer_norm("norm1", **kwargs)(x)
        branch, weights = Attention(self.heads, name="attn", **kwargs)(branch)
        x = x + self._dropped(self._scaled(branch, "gamma_1"), train)
        branch = layer_norm("norm2", **kwargs)(x)
        branch = Mlp(self.hidden_dim, name="mlp", **kwargs)(branch)
        return x + self._dropped(self._scaled(branch, "gamma_2"), train), weights

    def _scaled(self, branch: Array, name: str) -> Array:
        if not self.layer_scale:
            return branch
        init = nn.initializers.constant(self.layer_scale)
        gamma = self.param(name, init, (branch.shape[-1],), self.param_dtype)
        return branch * gamma.astype(self.dtype)

    def _dropped(self, branch: Array, train: bool) -> Array:
        if not train or not self.drop_path:
            return branch
        keep_share = 1 - self.drop_path
        shape = (branch.shape[0], 1, 1)
        keep = jax.random.bernoulli(self.make_rng("drop_path"), keep_share, shape)
        return jnp.where(keep, branch / keep_share, 0)


class ViT(nn.Module):
    """A Vision Transformer with class token, mask token and resampled positions.

    Attributes:
      patch_size: side of a patch in pixels.
      width: token dimension, D.
      depth: number of blocks.
      heads: attention heads of a block.
      mlp_ratio: hidden over token dimension of the MLPs.
      drop_path: stochastic depth of the last block; the first has 0, linear in between.
      layer_scale: initial LayerScale gain; 0 leaves it out.
      grid: (rows, columns) of patches that the positions are trained for.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    drop_path: float
    layer_scale: float
    grid: tuple[int, int]
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self):
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.patch_embed = PatchEmbed(self.patch_size, self.width, **kwargs)
        self.cls_token = self.param("cls_token", _init, (1, 1, self.width), self.param_dtype)
        positions = (1, 1 + self.grid[0] * self.grid[1], self.width)
        self.pos_embed = self.param("pos_embed", _init, positions, self.param_dtype)
        zeros = nn.initializers.zeros
        self.mask_token = self.param("mask_token", zeros, (1, self.width), self.param_dtype)
        self.blocks = [
            Block(
                heads=self.heads,
                hidden_dim=int(self.width * self.mlp_ratio),
                drop_path=float(drop_path),
                layer_scale=self.layer_scale,
                **kwargs,
            )
            for drop_path in np.linspace(0, self.drop_path, self.depth)
        ]
        self.norm = layer_norm(None, **kwargs)

    def __call__(self, images: Array, masks: Array | None = None, train: bool = False) -> Array:
        """Computes the normalised output tokens.

        Args:
          images: [B, H, W, C] floating, normalised; rows and columns that do not fill a patch
            are cut off.
          masks: [B, h, w] bool, True where the mask token replaces the patch; or None.
          train: whether stochastic depth is on; it draws from the stream "drop_path".

        Returns:
          [B, 1 + h * w, D] `dtype`, the class token first.
        """
        x = self._embed(images, masks)
        for block in self.blocks:
            x, _ = block(x, train)
        return self.norm(x)

    def last_attention(self, images: Array) -> Array:
        """Returns the last block's attention weights, [B, heads, 1 + h * w, 1 + h * w]."""
        x = self._embed(images, None)
        for block in self.blocks:
            x, weights = block(x, False)
        return weights

    def last_layers(self, images: Array, n: int) -> Array:
        """Returns the normalised tokens of the last n blocks, [n, B, 1 + h * w, D], in order."""
        x = self._embed(images, None)
        outputs = []
        for i, block in enumerate(self.blocks):
            x, _ = block(x, False)
            if i >= self.depth - n:
                outputs.append(self.norm(x))
        return jnp.stack(outputs)

    def _embed(self, images: Array, masks: Array | None) -> Array:
        x = self.patch_embed(images)  # [B, h, w, D]
        batch, rows, columns, width = x.shape
        if masks is not None:
            x = jnp.where(masks[..., None], self.mask_token.astype(self.dtype), x)
        x = x.reshape(batch, rows * columns, width)
        cls = jnp.broadcast_to(self.cls_token.astype(self.dtype), (batch, 1, width))
        return jnp.concatenate([cls, x], axis=1) + self._positions(rows, columns)

    def _positions(self, rows: int, columns: int) -> Array:
        if (rows, columns) == self.grid:
            return self.pos_embed.astype(self.dtype)
        trained = self.pos_embed[0, 1:].reshape(*self.grid, self.width)
        along_rows = interpolation_matrix(self.grid[0], rows)
        along_columns = interpolation_matrix(self.grid[1], columns)
        patches = jnp.einsum(
            "hH,wW,HWd->hwd",
            *(m.astype(self.param_dtype) for m in (along_rows, along_columns)),
            trained,
            precision="highest",
        )
        patches = patches.reshape(1, rows * columns, self.width)
        return jnp.concatenate([self.pos_embed[:, :1], patches], axis=1).astype(self.dtype)
