"""Semi-supervised: 1 % or 10 % of ImageNet's labels, from the projection head's first layer.

    --data=tfds:imagenet2012_subset/1pct --test-split=validation --dtype=bfloat16
    --data=tfds:imagenet2012_subset/10pct --test-split=validation --dtype=bfloat16

The subsets are those of SimCLR. For class folders, link the files that its lists name:

    while read -r name; do
        mkdir -p subset/train/${name%%_*}
        ln -s "$PWD"/train/${name%%_*}/$name subset/train/${name%%_*}/
    done < 1percent.txt

Epochs, learning rate and batch are those of the original's command, all else the defaults of the
code that it calls; as in `transfer.py`, repeated augmentation is left out. Published for ViT-S/16:
61.9 % and 75.1 %. Value by value: docs/recipes.md. Not run here.
"""

from ibot_jax.finetune.config import get_config as default_config


def get_config():
    """Returns the config."""
    config = default_config()
    config.start = "projection"
    config.duration = "1000 epochs"
    config.drop_path = 0.1
    config.classifier_std = 0.02
    # 5e-6 for 512 images; the lowest rate is as high as the highest, so it stays what it is.
    config.optim.update(dict(lr=2.5e-6, min_lr=1e-5, warmup="5 epochs", layer_decay=1.0))
    config.data.test_interpolation = "bicubic"
    config.test_every = "10 epochs"
    return config
