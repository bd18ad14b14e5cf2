"""Models by config: the backbone and the heads of student and teacher."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ibot_jax.config.section import Section
from ibot_jax.kernels.attention import writes_weights
from ibot_jax.kernels.choice import XLA, Kernels, choose_at_hand
from ibot_jax.models.architectures import architecture_of, geometry_of
from ibot_jax.models.block import attention_spec
from ibot_jax.models.geometry import StageShape
from ibot_jax.models.head import Head
from ibot_jax.models.parameters import Params
from ibot_jax.models.swin import Swin
from ibot_jax.models.vit import ViT

Backbone = ViT | Swin
MODULES = {
    "vit": ViT,
    "swin": Swin,
}  # by `model.arch`, as `architectures` has what is known of them

# Values of the section `model` that every backbone has as its attributes.
_OF_ALL = ("patch_size", "width", "mlp_ratio", "norm_eps", "remat")


def compute_dtype(dtype: str) -> jnp.dtype:
    """Returns the dtype of the forward and backward pass."""
    return jnp.dtype(dtype)


def param_dtype(dtype: str) -> jnp.dtype:
    """Returns the dtype of parameters, losses and centers: float32, or float64 for float64."""
    return jnp.promote_types(compute_dtype(dtype), jnp.float32)


def build_backbone(
    model: Section, size: tuple[int, int], dtype: str, kernels: Kernels = XLA
) -> Backbone:
    """Builds the backbone, which student and teacher share as a module.

    Args:
      model: the config's section.
      size: height and width of the images that it is trained for.
      dtype: of the computation.
      kernels: that may compute it.
    """
    return MODULES[model.arch](
        grid=geometry_of(model).patches(size),
        kernels=kernels,
        dtype=compute_dtype(dtype),
        param_dtype=param_dtype(dtype),
        **{key: getattr(model, key) for key in (*_OF_ALL, *architecture_of(model).keys)},
    )


def init_params(
    backbone: Backbone, head: Head | None, rng: jax.Array, size: tuple[int, int], channels: int
) -> Params:
    """Draws the first parameters of a network, {"backbone": ..., "head": ...}.

    Args:
      backbone: the module.
      head: the module; None for a network without.
      rng: of which both have their own.
      size: height and width of the images that the backbone is trained for.
      channels: of an image.
    """
    backbone_rng, head_rng = jax.random.split(rng)
    image = jnp.zeros((1, *size, channels), backbone.param_dtype)
    params = {"backbone": backbone.init(backbone_rng, image)["params"]}
    if head is not None:
        token = jnp.zeros((1, geometry_of(backbone).width), backbone.param_dtype)
        params["head"] = head.init(head_rng, token)["params"]
    return params


def attention_in_memory(model: Section, stages: Sequence[StageShape], dtype: str) -> int:
    """Returns how many attention weights of a view a block writes to memory here, at the least.

    Args:
      model: the config's section.
      stages: of the backbone on the view.
      dtype: of the computation.
    """
    kernels = choose_at_hand(model.kernels)
    if kernels.device.platform == "tpu":  # whose kernels write none; what they take is not asked
        return 0
    positions = architecture_of(model).positions
    written = [0]
    for stage in stages:
        spec = attention_spec((1, stage.keys, stage.width), stage.heads, dtype)
        if writes_weights(dataclasses.replace(spec, positions=positions), kernels):
            written.append(stage.heads * stage.tokens * stage.keys)
    return max(written)


def build_head(head: Section, dtype: str, *, teacher: bool) -> Head:
    """Builds the student's or the teacher's head; they may differ in sharing the last layer."""
    return Head(
        hidden_dim=head.hidden_dim,
        bottleneck_dim=head.bottleneck_dim,
        prototypes=head.prototypes,
        patch_prototypes=head.patch_prototypes,
        shared=head.shared_teacher if teacher else head.shared,
        separate=head.separate,
        patch_hidden_dim=head.patch_hidden_dim,
        patch_bottleneck_dim=head.patch_bottleneck_dim,
        weight_norm=head.weight_norm,
        act=head.act,
        dtype=compute_dtype(dtype),
        param_dtype=param_dtype(dtype),
    )
