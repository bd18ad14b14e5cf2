"""The projection head with its prototypes (paper, section 3.2; equation 3 with shared weights)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels.gelu import gelu
from ibot_jax.models.linear import Linear, normal_init

Array = jax.Array


def _at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


class Prototypes(nn.Module):
    """A linear layer without bias: output k is x . (g_k v_k / ||v_k||), or x . v_k.

    Attributes:
      number: of prototypes, K.
      weight_norm: whether directions and norms are parameters apart (DINO, iBOT, DINOv2); without,
        as in DINOv3, there is no `g`.
      dtype: of the product's inputs; it is summed in float32. Of float32 it is exact, whatever the
        default precision: in a bfloat16 run one such layer gives the centers.
      param_dtype: of the parameters `v` [inputs, K] and `g` [1, K].
    """

    number: int
    weight_norm: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [..., inputs] to logits [..., K], float32 (float64 for float64)."""

        def torch_linear_init(key, shape, dtype):
            bound = shape[0] ** -0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        shape = (x.shape[-1], self.number)
        init = torch_linear_init if self.weight_norm else normal_init
        weights = direction = self.param("v", init, shape, self.param_dtype)
        if self.weight_norm:
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
      separate: whether patch tokens have an MLP of their own, too: two heads (DINOv2).
      patch_hidden_dim: of its hidden layers; 0 is `hidden_dim`.
      patch_bottleneck_dim: of its unit vectors; 0 is `bottleneck_dim`.
      weight_norm: of the last layers, see `Prototypes`.
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
    separate: bool = False
    patch_hidden_dim: int = 0
    patch_bottleneck_dim: int = 0
    weight_norm: bool = True
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self):
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        def layers(hidden_dim: int, bottleneck_dim: int) -> list[Linear]:
            sizes = hidden_dim, hidden_dim, bottleneck_dim
            return [Linear(features, **kwargs) for features in sizes]

        self.mlp = layers(self.hidden_dim, self.bottleneck_dim)
        if self.separate:
            self.patch_mlp = layers(
                self.patch_hidden_dim or self.hidden_dim,
                self.patch_bottleneck_dim or self.bottleneck_dim,
            )
        self.last_layer = Prototypes(self.prototypes, self.weight_norm, **kwargs)
        if not self.shared:
            self.patch_last_layer = Prototypes(self.patch_prototypes, self.weight_norm, **kwargs)

    def __call__(self, tokens: Array) -> tuple[Array, Array]:
        """Maps [..., D] tokens to their class and patch logits, [..., K] each."""
        unit = of_patches = self.bottleneck(tokens)
        if self.separate:
            of_patches = self.bottleneck(tokens, "patch")
        return self.class_logits(unit), self.patch_logits(of_patches)

    def bottleneck(self, tokens: Array, kind: str = "class") -> Array:
        """Maps [..., D] tokens to unit vectors [..., bottleneck_dim], float32 (or float64).

        `kind`, "class" or "patch", is that of the tokens; it matters where heads are separate.
        """
        mlp = self.patch_mlp if self.separate and kind == "patch" else self.mlp
        x = tokens
        for dense in mlp[:-1]:
            x = dense(x)
            x = nn.relu(x) if self.act == "relu" else gelu(x)
        x = mlp[-1](x).astype(_at_least_float32(self.dtype))
        # max() keeps the gradient at zero vectors finite, as torch.nn.functional.normalize does.
        norm = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
        return x / norm

    def class_logits(self, unit: Array) -> Array:
        """Maps unit vectors [..., bottleneck_dim] to class-token logits [..., K]."""
        return self.last_layer(unit)

    def patch_logits(self, unit: Array) -> Array:
        """Maps unit vectors [..., bottleneck_dim] to patch-token logits [..., K]."""
        return (self.last_layer if self.shared else self.patch_last_layer)(unit)
