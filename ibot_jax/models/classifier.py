"""A backbone with a classifier on its class token, for fine-tuning (paper, section 4.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels.choice import Kernels
from ibot_jax.models.build import Backbone

Array = jax.Array


class Classifier(nn.Module):
    """The class token's linear classifier, by option on the projection head's first layer.

    Attributes:
      backbone: whose class token is classified.
      num_classes: outputs, C.
      projection_dim: of the projection head's first layer, which is kept below the classifier
        (the semi-supervised setting of SimCLRv2); 0 leaves it out.
      act: of that layer, "gelu" (exact) or "relu".
      init_std: of the classifier's weights; its bias starts at 0.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    backbone: Backbone
    num_classes: int
    projection_dim: int
    act: str
    init_std: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Array, gains: Array | None = None) -> Array:
        """Maps normalised images [B, H, W, C'] to logits [B, C] of at least float32.

        `gains` [B, depth, 2] are those of stochastic depth, see `block.drop_path_gains`.
        """
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        token = self.backbone(images, None, gains).cls
        if self.projection_dim:
            token = nn.Dense(self.projection_dim, name="projection", **kwargs)(token)
            token = nn.relu(token) if self.act == "relu" else nn.gelu(token, approximate=False)
        init = nn.initializers.normal(self.init_std)
        logits = nn.Dense(self.num_classes, name="classifier", kernel_init=init, **kwargs)(token)
        return logits.astype(jnp.promote_types(self.dtype, jnp.float32))


def with_kernels(classifier: Classifier, kernels: Kernels) -> Classifier:
    """Returns a classifier whose backbone other kernels may compute."""
    return classifier.clone(backbone=classifier.backbone.clone(kernels=kernels))
