"""Swin-B with windows of 7 on ImageNet-1K: the recipe of `swint7.py`.

The original has this size, whose stochastic depth is 0.2 there, and published no run of it.
"""

from ibot_jax.config import SWIN_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.duration = "300 epochs"
    config.model.update(SWIN_SIZES["base"], drop_path=0.2)
    config.masks.start = "50 epochs"
    config.data.source = "tfds:imagenet2012"
    config.knn.every = "25 epochs"
    apply_pod(config, pod)
    return config
