"""The projection head with its prototypes (paper, section 3.2; equation 3 with shared weights)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels.gelu import gelu
from ibot_jax.models.linear import Linear

Array = jax.Array


def _at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


class Prototypes(nn.Module):
    """A weight-normalised linear layer without bias: output k is x . (g_k v_k / ||v_k||).

    Attributes:
      number: of prototypes, K.
      dtype: of the product's inputs; it is summed in float32. Of float32 it is exact, whatever the
        default precision: in a bfloat16 run one such layer gives the centers.
      param_dtype: of the parameters `v` [inputs, K] and `g` [1, K].
    """

    number: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [..., inputs] to logits [..., K], float32 (float64 for float64)."""

        def torch_linear_init(key, shape, dtype):
            bound = shape[0] ** -0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        shape = (x.shape[-1], self.number)
        direction = self.param("v", torch_linear_init, shape, self.param_dtype)
        gain = self.param("g", nn.initializers.ones, (1, self.number), self.param_dtype)
        weights = direction * (gain / jnp.linalg.norm(direction, axis=0, keepdims=True))
        return jnp.matmul(
            x.astype(self.dtype),
            weights.astype(self.dtype),
            precision=None if self.dtype == jnp.bfloat16 else "highest",
            preferred_element_type=_at_least_float32(self.dtype),
        )


class Head(nn.Module):
    """An MLP to a unit bottleneck, then prototypes for class tokens and for patch tokens.

    Attributes:
      hidden_dim: of the two hidden layers.
      bottleneck_dim: of the unit vectors that meet the prototypes.
      prototypes: outputs for class tokens, K.
      patch_prototypes: outputs for patch tokens; K where shared.
      shared: whether class and patch tokens use the same last layer.
      act: "gelu" or "relu".
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    hidden_dim: int
    bottleneck_dim: int
    prototypes: int
    patch_prototypes: int
    shared: bool
    act: str
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self):
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.mlp = [
            Linear(features, **kwargs)
            for features in (self.hidden_dim, self.hidden_dim, self.bottleneck_dim)
        ]
        self.last_layer = Prototypes(self.prototypes, **kwargs)
        if not self.shared:
            self.patch_last_layer = Prototypes(self.patch_prototypes, **kwargs)

    def __call__(self, tokens: Array) -> tuple[Array, Array]:
        """Maps [..., D] tokens to their class and patch logits, [..., K] each."""
        unit = self.bottleneck(tokens)
        return self.class_logits(unit), self.patch_logits(unit)

    def bottleneck(self, tokens: Array) -> Array:
        """Maps [..., D] tokens to unit vectors [..., bottleneck_dim], float32 (or float64)."""
        x = tokens
        for dense in self.mlp[:-1]:
            x = dense(x)
            x = nn.relu(x) if self.act == "relu" else gelu(x)
        x = self.mlp[-1](x).astype(_at_least_float32(self.dtype))
        # max() keeps the gradient at zero vectors finite, as torch.nn.functional.normalize does.
        norm = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
        return x / norm

    def class_logits(self, unit: Array) -> Array:
        """Maps unit vectors [..., bottleneck_dim] to class-token logits [..., K]."""
        return self.last_layer(unit)

    def patch_logits(self, unit: Array) -> Array:
        """Maps unit vectors [..., bottleneck_dim] to patch-token logits [..., K]."""
        return (self.last_layer if self.shared else self.patch_last_layer)(unit)
