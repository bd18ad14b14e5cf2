"""The linear layer that makes tokens of an image's patches."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels.linear import add_bias

Array = jax.Array


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
        rows, columns = images.shape[1] // p, images.shape[2] // p
        x = images[:, : rows * p, : columns * p].astype(self.dtype)
        return PatchProjection(p, self.width, self.dtype, self.param_dtype, name="proj")(x)


class PatchProjection(nn.Module):
    """The linear layer of `PatchEmbed`, whose attributes it has, on images of whole patches."""

    patch_size: int
    width: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps [B, H, W, C] images to [B, h, w, D]; the parameter `kernel` is [p * p * C, D]."""
        inputs = self.patch_size**2 * images.shape[-1]

        def torch_conv_init(key, shape, dtype):
            # PyTorch's default for weight and bias: uniform within 1 / sqrt(fan_in).
            return jax.random.uniform(key, shape, dtype, -(inputs**-0.5), inputs**-0.5)

        kernel = self.param("kernel", torch_conv_init, (inputs, self.width), self.param_dtype)
        bias = self.param("bias", torch_conv_init, (self.width,), self.param_dtype)
        products = jax.lax.platform_dependent(
            images,
            kernel.astype(self.dtype),
            tpu=functools.partial(convolve_patches, self.patch_size),
            default=functools.partial(multiply_patches, self.patch_size),
        )
        return add_bias(products, bias)


def multiply_patches(patch_size: int, images: Array, kernel: Array) -> Array:
    """Cuts images [B, H, W, C] into patches and multiplies each by [p * p * C, D]: [B, h, w, D]."""
    p = patch_size
    batch, height, width, channels = images.shape
    rows, columns = height // p, width // p
    x = images.reshape(batch, rows, p, columns, p, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, p * p * channels) @ kernel


def convolve_patches(patch_size: int, images: Array, kernel: Array) -> Array:
    """What `multiply_patches` gives, as a convolution: a TPU then has no patches to lay out."""
    return jax.lax.conv_general_dilated(
        images,
        kernel.reshape(patch_size, patch_size, images.shape[-1], -1),
        window_strides=(patch_size, patch_size),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
