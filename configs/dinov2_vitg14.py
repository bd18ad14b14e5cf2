"""DINOv2's ViT-g/14: 625,000 steps of 3,072, on what you give it.

    --config.data.source=folder:PATH

There it was LVD-142M, which is not public; the settings are those of its program for ImageNet-22K.
It ends with 10,000 steps at 518 pixels, which are another run, from the weights of this one:
docs/recipes.md, "Sizes of views". On LVD-142M and with them it has 83.5 % k-NN, 86.5 % linear on
ImageNet-1K, quoted from memory.

A run departs from it in this: the neighbours of KoLeo are sought in groups of 12 consecutive
images, a GPU's there, on any number of devices; bfloat16 in place of float16. Value by value, and
what is quoted from memory: docs/recipes.md. Not run here.
"""

from ibot_jax.config import DINOV2, VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.method = "dinov2"
    config.duration = "625000 steps"
    config.batch_size = 3072
    config.model.update(VIT_SIZES["giant"] | DINOV2)
    config.model.update(dict(drop_path=0.4, drop_path_kind="uniform", scan_blocks=True))
    config.head.update(dict(separate=True, shared=False, shared_teacher=False))
    config.head.update(dict(prototypes=131072, patch_prototypes=131072, norm_last_layer=False))
    config.head.update(dict(bottleneck_dim=384, patch_bottleneck_dim=256))
    config.loss.update(dict(targets="sinkhorn", koleo_weight=0.1, koleo_group=12))
    config.loss.teacher_temp_warmup = "37500 steps"
    config.masks.kind = "dinov2"
    config.teacher_momentum = 0.994
    config.optim.update(dict(lr=1e-4, lr_scaling="sqrt", warmup="100000 steps"))
    config.optim.update(dict(weight_decay_end=0.2, rates="backbone/patch_embed: 0.2"))
    config.optim.update(dict(clip_by="module", freeze_last_layer="1250 steps"))
    config.optim.freeze_last_layer_by = "rate"
    config.data.update(dict(global_scale=(0.32, 1.0), local_views=8, local_scale=(0.05, 0.32)))
    config.data.local_size = (98, 98)
    config.knn.every = "12500 steps"
    config.checkpoint.every = "2500 steps"  # an epoch may be weeks
    apply_pod(config, pod)
    if pod == "v5p-64":
        config.mesh.update(data=1, fsdp=64)
        config.model.remat = "blocks"  # reckoned, not compiled
    return config
