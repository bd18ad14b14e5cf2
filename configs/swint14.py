"""Swin-T with windows of 14 on ImageNet-1K as published: 300 epochs, 76.2 % k-NN, 79.3 % linear.

Masks begin with epoch 50, in cells of 32 pixels; epochs, batch, temperatures, head and masks are
the published ones, what else there is that of `vits16.py`, a model of this size.
"""

from ibot_jax.config import SWIN_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.duration = "300 epochs"
    config.model.update(SWIN_SIZES["tiny"], window=14)
    config.head.norm_last_layer = False
    config.masks.start = "50 epochs"
    config.data.source = "tfds:imagenet2012"
    config.knn.every = "25 epochs"
    apply_pod(config, pod)
    return config
