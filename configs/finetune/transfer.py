"""Transfer to smaller data sets, with the recipe of DeiT that the original keeps for them.

    configs/finetune/transfer.py:cifar10     --data=tfds:cifar10
    configs/finetune/transfer.py:cifar100    --data=tfds:cifar100
    configs/finetune/transfer.py:flowers     --data=tfds:oxford_flowers102
                                             --train-split=train+validation
    configs/finetune/transfer.py:cars        --data=tfds:cars196
    configs/finetune/transfer.py:inat18      --data=tfds:i_naturalist2018 --test-split=validation
    configs/finetune/transfer.py:inat19      --data=folder:PATH --test-split=val

Images are enlarged to the model's size in pre-training. Learning rates, epochs, batch and erasing
are those of the original's commands, all else the defaults of the code that they call. They are
for ViT-B/16; for ViT-S/16 the original raises the learning rate of iNaturalist, which
":inat18-small" and ":inat19-small" do. Repeated augmentation is left out. Value by value:
docs/recipes.md. Not run here.
"""

from ibot_jax.errors import UserError
from ibot_jax.finetune.config import get_config as default_config

# Learning rate for 512 images, as the original's commands give it, and epochs.
VARIANTS = {
    "cifar10": (7.5e-6, 1000),
    "cifar100": (7.5e-6, 1000),
    "flowers": (7.5e-6, 1000),
    "cars": (7.5e-5, 1000),
    "inat18": (7.5e-6, 360),
    "inat19": (7.5e-6, 360),
    "inat18-small": (5e-5, 360),
    "inat19-small": (2.5e-5, 360),
}


def get_config(arg: str = ""):
    """Returns the config of a data set."""
    if arg not in VARIANTS:
        raise UserError(f"there is no variant {arg!r}; use transfer.py:{', :'.join(VARIANTS)}")
    lr, epochs = VARIANTS[arg]
    config = default_config()
    config.duration = f"{epochs} epochs"
    config.drop_path = 0.1
    config.batch_size = 768
    config.classifier_std = 0.02
    config.optim.update(dict(lr=lr / 2, min_lr=1e-5, warmup="5 epochs", layer_decay=1.0))
    config.data.erase = 0.1 if arg.startswith("inat") else 0.25
    config.data.test_interpolation = "bicubic"
    config.test_every = "10 epochs"
    return config
