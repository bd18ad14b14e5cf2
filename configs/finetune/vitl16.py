"""ViT-L/16 on ImageNet-1K as the original fine-tunes it: 50 epochs, 84.8 % published.

    --data=tfds:imagenet2012 --test-split=validation --dtype=bfloat16

Sources as for `vits16.py`. Not run to the end here. Where memory is short: --config.remat=blocks.
"""

from ibot_jax.finetune.config import get_config as default_config


def get_config():
    """Returns the config."""
    config = default_config()
    config.duration = "50 epochs"
    config.drop_path = 0.4
    config.optim.update(dict(layer_decay=0.75, warmup="5 epochs"))
    return config
