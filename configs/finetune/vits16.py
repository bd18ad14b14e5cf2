"""ViT-S/16 on ImageNet-1K as the original fine-tunes it: 200 epochs, 82.3 % published.

    --data=tfds:imagenet2012 --test-split=validation --dtype=bfloat16

Epochs, layer decay, stochastic depth, batch, mixup, CutMix and the length of the warm-up are those
of the original's commands, all else the defaults of the code that they call (BEiT's); value by
value in docs/recipes.md. The original sweeps the learning rate; 4e-3 for 1,024 images is the
default of its code. Not run to the end here.
"""

from ibot_jax.finetune.config import get_config as default_config


def get_config():
    """Returns the config."""
    config = default_config()
    config.duration = "200 epochs"
    config.drop_path = 0.1
    config.optim.layer_decay = 0.75
    return config
