"""CIFAR-10 at 32 pixels on two cores, from a run of configs/cifar10.py.

    --data=folder:PATH --max-train-per-class=500

with PATH/train/CLASS/* and PATH/test/CLASS/*. Sized for 5,000 training images.
"""

from ibot_jax.finetune.config import get_config as default_config


def get_config():
    """Returns the config."""
    config = default_config()
    config.duration = "15 epochs"
    config.drop_path = 0.1
    config.batch_size = 100
    config.classifier_std = 0.02
    config.optim.update(dict(lr=2.5e-3, warmup="2 epochs", layer_decay=0.75))
    config.data.update(dict(scale=(0.35, 1.0), resize="pillow"))
    config.data.rand_augment.update(dict(ops=1, magnitude=5.0))
    config.data.test_interpolation = "bicubic"
    config.test_every = "5 epochs"
    config.checkpoint.every = "5 epochs"
    config.log_every = "1 epochs"
    return config
