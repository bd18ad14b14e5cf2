"""The documented default configuration of fine-tuning.

`configs/finetune/*.py` start from `get_config()` and override. It holds the recipe: how. What is
fine-tuned, and on which images, is said by flags (`python -m ibot_jax.evaluate finetune --help`).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the default configuration: the original's ImageNet recipe for ViT-B/16.

    Durations are strings, "10 epochs", "5000 steps" or "1e6 examples"; a bare number means epochs.
    """
    config = ConfigDict()
    config.seed = 0
    config.duration = "100 epochs"
    config.batch_size = 1024  # images a step, over all devices
    config.start = "backbone"  # or "projection": its head's first layer stays under the classifier
    config.classifier_std = 2e-5  # of the classifier's initial weights
    config.drop_path = 0.2  # stochastic depth of the last block; the first has 0
    config.remat = "none"  # kept for the backward pass: all; "dots", linear outputs; "blocks"

    config.optim = ConfigDict(
        dict(
            lr=1e-3,  # AdamW, for 256 images a step; scaled linearly by batch_size / 256
            min_lr=1e-6,  # at the end, not scaled
            warmup="20 epochs",
            weight_decay=0.05,  # not of vectors, positions and the class token
            layer_decay=0.65,  # factor of the learning rate from each block to the one below it
        )
    )
    config.loss = ConfigDict(
        dict(
            label_smoothing=0.1,  # share of each label that is spread over all classes
            mixup=0.8,  # Beta(x, x) gives the shares of two mixed images; 0 turns it off
            cutmix=1.0,  # the same of a box that one image gets from another
            cutmix_share=0.5,  # of the images, where both are on; mixup has the rest
        )
    )
    config.data = ConfigDict(
        dict(
            scale=(0.08, 1.0),  # crop area over image area
            aspect=(3 / 4, 4 / 3),
            flip=0.5,  # probability
            rand_augment=dict(
                ops=2,  # operations drawn for each image; 0 turns it off
                magnitude=9.0,  # of 10
                magnitude_std=0.5,
            ),
            erase=0.25,  # probability of a box of noise
            max_bad_share=0.01,  # stop when more than this share of images cannot be read
            workers=0,  # processes that make views; 0 takes one for each core
            stall_seconds=300.0,  # of waiting for input or peers before a warning; 0 never warns
            resize="simd",  # antialiased bicubic; or "pillow", which is slower
        )
    )
    config.test_every = "1 epochs"
    config.checkpoint = ConfigDict(
        dict(
            every="1 epochs",
            keep=1,  # the latest so many; the best by top-1 is kept besides
        )
    )
    config.log_every = "50 steps"
    return config
