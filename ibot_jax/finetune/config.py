"""All keys of a fine-tuning config: default, meaning, range and kind.

`configs/finetune/*.py` start from `get_config()` and override. It holds the recipe: how. What is
fine-tuned, and on which images, is said by flags (`python -m ibot_jax.evaluate finetune --help`).
"""

from ml_collections import ConfigDict

from ibot_jax.config import defaults
from ibot_jax.config.defaults import SHARE, SIZE, STRENGTH
from ibot_jax.config.flat import make_config
from ibot_jax.config.keys import Key, Kind
from ibot_jax.config.ranges import Between, ByGlob, Duration, Interval, OneOf

SECTIONS = {
    "": "its length, batch and start",
    "optim": "AdamW",
    "lora": defaults.SECTIONS["lora"],
    "loss": "labels, and images that are mixed",
    "data": "how images are cut and changed",
    "data.rand_augment": "operations on the whole image",
    "checkpoint": "what is saved",
}

# The original's ImageNet recipe for ViT-B/16.
KEYS = {
    "seed": defaults.KEYS["seed"],
    "duration": defaults.KEYS["duration"],
    "batch_size": defaults.KEYS["batch_size"],
    "start": Key(
        "backbone",
        "projection: its head's first layer stays under the classifier",
        OneOf(("backbone", "projection")),
    ),
    "classifier_std": Key(2e-5, "of the classifier's initial weights", Between(1e-10, 10, off=0)),
    "drop_path": Key(0.2, "stochastic depth of the last block; the first has 0", Between(0, 0.99)),
    "remat": defaults.KEYS["model.remat"],
    "optim.lr": Key(
        1e-3,
        "for 256 images a step; scaled linearly by batch_size / 256",
        Between(1e-10, 100),
    ),
    "optim.min_lr": defaults.KEYS["optim.min_lr"],
    "optim.warmup": Key("20 epochs", "in which the learning rate rises from 0", Duration()),
    "optim.weight_decay": Key(
        0.05, "not of vectors, positions and the class token", Between(0, 10)
    ),
    "optim.layer_decay": Key(
        0.65,
        "factor of the learning rate from each block to the one below it",
        Between(0.01, 1),
    ),
    "optim.freeze": Key(
        "",
        'what stays as it is, by name: "backbone: 100%", "backbone/blocks_[0-5]: 100%"',
        ByGlob(Duration()),
    ),
    "lora.rank": defaults.KEYS["lora.rank"],
    "lora.alpha": defaults.KEYS["lora.alpha"],
    "lora.targets": defaults.KEYS["lora.targets"],
    "loss.label_smoothing": Key(
        0.1, "share of each label that is spread over all classes", Between(0, 0.99)
    ),
    "loss.mixup": Key(
        0.8,
        "Beta(x, x) gives the shares of two mixed images; 0 turns it off",
        Between(1e-3, 1000, off=0),
    ),
    "loss.cutmix": Key(
        1.0, "the same of a box that one image gets from another", Between(1e-3, 1000, off=0)
    ),
    "loss.cutmix_share": Key(0.5, "of the images, where both are on; mixup has the rest", SHARE),
    "data.scale": Key((0.08, 1.0), "crop area over image area", Interval(1e-4, 1)),
    "data.aspect": defaults.KEYS["data.aspect"],
    "data.flip": defaults.KEYS["data.flip"],
    "data.rand_augment.ops": Key(
        2, "operations drawn for each image; 0 turns it off", Between(0, 100)
    ),
    "data.rand_augment.magnitude": Key(9.0, "of 10", STRENGTH),
    "data.rand_augment.magnitude_std": Key(0.5, "of the normal noise on it", STRENGTH),
    "data.erase": Key(0.25, "probability of a box of noise", SHARE),
    "data.max_bad_share": defaults.KEYS["data.max_bad_share"],
    "data.workers": defaults.KEYS["data.workers"],
    "data.stall_seconds": defaults.KEYS["data.stall_seconds"],
    "data.resize": defaults.KEYS["data.resize"],
    "data.test_interpolation": Key(
        "bilinear",
        "of test images; of views it is bicubic",
        OneOf(("bilinear", "bicubic")),
        Kind.REPORTED,
    ),
    "test_every": Key("1 epochs", "between tests", Duration(), Kind.REPORTED),
    "checkpoint.every": defaults.KEYS["checkpoint.every"],
    "checkpoint.keep": Key(
        1,
        "the latest so many; the best by top-1 is kept besides",
        SIZE,
        Kind.REPORTED,
    ),
    "log_every": defaults.KEYS["log_every"],
}


def get_config() -> ConfigDict:
    """Returns the default configuration: the original's ImageNet recipe for ViT-B/16.

    `KEYS` says what each key means and takes.
    """
    return make_config(KEYS)
