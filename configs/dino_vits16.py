"""DINO, ViT-S/16 on ImageNet-1K as published: 800 epochs, class tokens alone.

Caron et al. 2021, table 2: 74.5 % k-NN, 77.0 % linear.
"""

from ibot_jax.config import apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config; the default is this recipe but for what stands here.

    By option with the settings for a pod, one of `config.PODS`.
    """
    config = default_config()
    config.method = "dino"
    config.duration = "800 epochs"
    config.head.update(dict(prototypes=65_536, patch_prototypes=65_536, norm_last_layer=False))
    config.masks.update(dict(ratios=(0.0,), variances=(0.0,)))
    config.optim.update(dict(min_lr=1e-5, clip=0.0))
    config.data.source = "tfds:imagenet2012"
    config.knn.every = "50 epochs"
    apply_pod(config, pod)
    return config
