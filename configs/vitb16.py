"""ViT-B/16 on ImageNet-1K as published: 400 epochs, 77.1 % k-NN, 79.5 % linear.

The paper and the original's README give epochs, batch, temperatures, head and masks; learning rate,
clipping, freezing, crop scales and the length of the temperatures' rise are those of the `args`
published beside the weights, quoted from memory.
"""

from ibot_jax.config import VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.duration = "400 epochs"
    config.model.update(VIT_SIZES["base"])
    config.loss.teacher_temp_warmup = "50 epochs"
    config.optim.update(dict(lr=7.5e-4, min_lr=2e-6, clip=0.3, freeze_last_layer="3 epochs"))
    config.data.update(
        dict(source="tfds:imagenet2012", global_scale=(0.32, 1.0), local_scale=(0.05, 0.32))
    )
    config.knn.every = "25 epochs"
    apply_pod(config, pod)
    return config
