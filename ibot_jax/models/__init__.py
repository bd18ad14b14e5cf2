"""Models by config: the backbone and the heads of student and teacher."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from ibot_jax.kernels import devices
from ibot_jax.kernels.tpu.cores import Cores
from ibot_jax.models.head import Head
from ibot_jax.models.vit import ViT


def compute_dtype(config: ConfigDict) -> jnp.dtype:
    """Returns the dtype of the forward and backward pass."""
    return jnp.dtype(config.dtype)


def param_dtype(config: ConfigDict) -> jnp.dtype:
    """Returns the dtype of parameters, losses and centers: float32, or float64 for float64."""
    return jnp.promote_types(compute_dtype(config), jnp.float32)


def patch_grid(config: ConfigDict) -> tuple[int, int]:
    """Returns the (rows, columns) of patches in a global view."""
    height, width = config.data.global_size
    return height // config.model.patch_size, width // config.model.patch_size


def block_kernels(config: ConfigDict, cores: Cores | None = None) -> str:
    """Returns what computes blocks: `model.kernels`, or for "auto" the fastest that can.

    "pallas" only with the `cores` of a TPU: elsewhere, XLA's partitioner might have to take its
    kernels apart.
    """
    kernels = config.model.kernels
    if kernels == "auto" and compute_dtype(config) == jnp.bfloat16:
        if cores is not None:
            return "pallas"
        if devices.has_cudnn_attention():
            return "cudnn"
    return "xla" if kernels == "auto" or (kernels == "pallas" and cores is None) else kernels


def build_backbone(config: ConfigDict, cores: Cores | None = None) -> ViT:
    """Builds the backbone, which student and teacher share as a module.

    With `cores` as is best within `average_gradients` on TPUs that have them; the outputs
    are the same.
    """
    sizes = config.model.to_dict()
    del sizes["drop_path"]  # the step draws it
    return ViT(
        **sizes | {"kernels": block_kernels(config, cores)},
        grid=patch_grid(config),
        pack=cores is not None,
        cores=cores,
        dtype=compute_dtype(config),
        param_dtype=param_dtype(config),
    )


def build_head(config: ConfigDict, *, teacher: bool, parts: int = 1) -> Head:
    """Builds the student's or the teacher's head; they may differ in sharing the last layer.

    Of `parts` parts of the prototypes it has one.
    """
    return Head(
        hidden_dim=config.head.hidden_dim,
        bottleneck_dim=config.head.bottleneck_dim,
        prototypes=config.head.prototypes // parts,
        patch_prototypes=config.head.patch_prototypes // parts,
        shared=config.head.shared_teacher if teacher else config.head.shared,
        act=config.head.act,
        dtype=compute_dtype(config),
        param_dtype=param_dtype(config),
    )
