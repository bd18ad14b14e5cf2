"""ViT-L/16 on ImageNet-1K as published: 250 epochs, 78.0 % k-NN, 81.0 % linear.

Sources as for `vitb16.py`, whose settings it shares but for size, length and stochastic depth.
"""

from ibot_jax.config import VIT_SIZES
from ibot_jax.config import get_config as default_config


def get_config():
    """Returns the config."""
    config = default_config()
    config.duration = "250 epochs"
    config.model.update(VIT_SIZES["large"])
    config.model.drop_path = 0.4
    config.loss.teacher_temp_warmup = "50 epochs"
    config.optim.update(dict(lr=7.5e-4, min_lr=2e-6, clip=0.3, freeze_last_layer="3 epochs"))
    config.data.update(
        dict(source="tfds:imagenet2012", global_scale=(0.32, 1.0), local_scale=(0.05, 0.32))
    )
    config.knn.test_split = "validation"
    config.knn.every = "25 epochs"
    return config
