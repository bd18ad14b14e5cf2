"""Models by config: the backbone and the heads of student and teacher."""

import jax.numpy as jnp

from ibot_jax.config.section import Section
from ibot_jax.kernels import devices
from ibot_jax.kernels.tpu.cores import Cores
from ibot_jax.models.head import Head
from ibot_jax.models.swin import Swin
from ibot_jax.models.vit import ViT


def compute_dtype(dtype: str) -> jnp.dtype:
    """Returns the dtype of the forward and backward pass."""
    return jnp.dtype(dtype)


def param_dtype(dtype: str) -> jnp.dtype:
    """Returns the dtype of parameters, losses and centers: float32, or float64 for float64."""
    return jnp.promote_types(compute_dtype(dtype), jnp.float32)


def block_kernels(kernels: str, dtype: str, cores: Cores | None = None) -> str:
    """Returns what computes blocks: `model.kernels`, or for "auto" the fastest that can.

    "pallas" only with the `cores` of a TPU: elsewhere, XLA's partitioner might have to take its
    kernels apart.
    """
    if kernels == "auto" and compute_dtype(dtype) == jnp.bfloat16:
        if cores is not None:
            return "pallas"
        if devices.has_cudnn_attention():
            return "cudnn"
    return "xla" if kernels == "auto" or (kernels == "pallas" and cores is None) else kernels


def build_backbone(
    model: Section, size: tuple[int, int], dtype: str, cores: Cores | None = None
) -> ViT | Swin:
    """Builds the backbone, which student and teacher share as a module.

    Args:
      model: the config's section.
      size: height and width of the images that it is trained for.
      dtype: of the computation.
      cores: of TPUs that have them, within `average_gradients`, for what is fastest
        there; the outputs are the same.
    """
    grid = tuple(side // model.patch_size for side in size)
    kwargs = dict(grid=grid, dtype=compute_dtype(dtype), param_dtype=param_dtype(dtype))
    kwargs |= {name: getattr(model, name) for name in ("patch_size", "width", "mlp_ratio", "remat")}
    if model.arch == "swin":
        return Swin(
            stage_depths=model.stage_depths,
            stage_heads=model.stage_heads,
            window=model.window,
            **kwargs,
        )
    return ViT(
        depth=model.depth,
        heads=model.heads,
        layer_scale=model.layer_scale,
        kernels=block_kernels(model.kernels, dtype, cores),
        cores=cores,
        scan_blocks=model.scan_blocks,
        pack=cores is not None,
        **kwargs,
    )


def build_head(head: Section, dtype: str, *, teacher: bool, parts: int = 1) -> Head:
    """Builds the student's or the teacher's head; they may differ in sharing the last layer.

    Of `parts` parts of the prototypes it has one.
    """
    return Head(
        hidden_dim=head.hidden_dim,
        bottleneck_dim=head.bottleneck_dim,
        prototypes=head.prototypes // parts,
        patch_prototypes=head.patch_prototypes // parts,
        shared=head.shared_teacher if teacher else head.shared,
        act=head.act,
        dtype=compute_dtype(dtype),
        param_dtype=param_dtype(dtype),
    )
