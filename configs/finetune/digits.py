"""The digits, --data=digits, from a run of configs/digits.py; not measured yet."""

from ibot_jax.finetune.config import get_config as default_config


def get_config():
    """Returns the config."""
    config = default_config()
    config.duration = "30 epochs"
    config.batch_size = 32
    config.drop_path = 0.0
    config.classifier_std = 0.02
    config.optim.update(dict(lr=1.6e-2, warmup="3 epochs", layer_decay=0.75))
    config.loss.update(dict(mixup=0.0, cutmix=0.0))
    config.data.update(
        dict(scale=(0.7, 1.0), aspect=(0.9, 1 / 0.9), flip=0.0, erase=0.0, resize="pillow")
    )
    config.data.rand_augment.ops = 0  # a mirrored or inverted digit is no digit
    config.data.test_interpolation = "bicubic"
    config.test_every = "5 epochs"
    config.checkpoint.every = "5 epochs"
    config.log_every = "5 epochs"
    return config
