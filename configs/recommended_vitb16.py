"""The best features from a folder of images, ViT-B/16: `recommended_vits16.py`, larger.

    python -m ibot_jax.main --config=recommended_vitb16 --config.data.source=folder:PATH

Reasons and sources stand in `recommended_vits16.py`, whose settings it shares but for size,
stochastic depth and learning rate, which are the same for B. Chosen by published figures only.
"""

from ibot_jax.config import DINOV3, VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.method = "dinov2"
    config.duration = "200 epochs"
    config.model.update(VIT_SIZES["base"] | DINOV3)
    config.model.drop_path = 0.1  # iBOT's ViT-B/16
    config.model.drop_path_kind = "uniform"
    config.head.update(dict(separate=True, shared=False, shared_teacher=False, weight_norm=False))
    config.head.update(dict(prototypes=65536, patch_prototypes=65536))
    config.loss.update(dict(targets="sinkhorn", koleo_weight=0.1, teacher_temp_warmup="30%"))
    config.masks.kind = "dinov3"
    config.teacher_momentum = 0.994
    # As for ViT-S/16: at 1,024 images it is 2e-3.
    config.optim.update(dict(lr=1e-3, lr_scaling="sqrt", warmup="10%", clip_by="module"))
    config.optim.update(dict(layer_decay=0.9, rates="backbone/patch_embed: 0.2"))
    config.optim.update(dict(freeze_last_layer="1%", freeze_last_layer_by="rate"))
    config.data.update(dict(global_scale=(0.32, 1.0), local_views=8, local_scale=(0.05, 0.32)))
    apply_pod(config, pod)
    return config
