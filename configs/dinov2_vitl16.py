"""DINOv2's ViT-L/16 on ImageNet-1K: 125,000 steps of 2,048, 81.6 % k-NN, 82.9 % linear published.

The recipe is the default of DINOv2's program with its short settings for ViT-L/16. Epochs there are
always 1,250 steps, whatever the data, so durations are in steps here. It has centers, a head that
class and patch tokens share, and 65,536 prototypes; those of `dinov2_vitg14.py` came later.

A run departs from it in this: the neighbours of KoLeo are sought in groups of 64 consecutive
images, a GPU's there, on any number of devices; centers of masked patches are means over the whole
batch, there a mean of the GPUs' means; bfloat16 in place of float16. Value by value, and what is
quoted from memory: docs/recipes.md. Not run to the end here.
"""

from ibot_jax.config import VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.method = "dinov2"
    config.duration = "125000 steps"
    config.batch_size = 2048
    config.model.update(VIT_SIZES["large"])
    config.model.update(dict(drop_path=0.3, drop_path_kind="uniform", layer_scale=1e-5))
    config.head.update(dict(prototypes=65536, patch_prototypes=65536, norm_last_layer=False))
    config.loss.update(dict(koleo_weight=0.1, koleo_group=64, teacher_temp_warmup="37500 steps"))
    config.masks.kind = "dinov2"
    config.teacher_momentum = 0.992
    config.optim.update(dict(lr=2e-3, lr_scaling="sqrt", warmup="12500 steps"))
    config.optim.update(dict(layer_decay=0.9, rates="backbone/patch_embed: 0.2", clip_by="module"))
    config.optim.update(dict(freeze_last_layer="1250 steps", freeze_last_layer_by="rate"))
    config.data.update(dict(source="tfds:imagenet2012", global_scale=(0.32, 1.0)))
    config.data.update(dict(local_views=8, local_scale=(0.05, 0.32)))
    config.knn.every = "12500 steps"
    apply_pod(config, pod)
    if pod == "v5e-64":
        config.mesh.update(data=1, fsdp=64)
        config.model.update(dict(remat="blocks", scan_blocks=True))  # docs/performance.md
    return config
