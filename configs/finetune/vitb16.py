"""ViT-B/16 on ImageNet-1K as the original fine-tunes it: 100 epochs, 84.0 % published.

    --data=tfds:imagenet2012 --test-split=validation --dtype=bfloat16

Sources as for `vits16.py`. It is the default recipe. Not run to the end here.
"""

from ibot_jax.finetune.config import get_config as default_config


def get_config():
    """Returns the config."""
    return default_config()
