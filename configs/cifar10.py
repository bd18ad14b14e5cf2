"""CIFAR-10 in class folders, train/CLASS/* and test/CLASS/*, 32 pixels.

Point `--config.data.source=folder:PATH` to the images. Five variants:

    configs/cifar10.py            for a CPU: 8-pixel patches make an image 17 tokens
    configs/cifar10.py:dinov2     the same with KoLeo, and parts of DINOv3's architecture, for the
                                  same time (docs/results.md)
    configs/cifar10.py:swin       for a CPU: a Swin whose output tokens are 8 pixels; its step has
                                  the FLOPs (3 % fewer) of cifar10.py with --config.model.depth=6
    configs/cifar10.py:large      for a GPU: 4-pixel patches, deeper and longer; not measured yet
    configs/cifar10.py:reference  the budget under which the original was measured: 5,000 training
                                  and 2,000 test images, 30 epochs
"""

from ibot_jax.config import get_config as default_config
from ibot_jax.errors import UserError


def get_config(arg: str = ""):
    """Returns the config of a variant."""
    variants = {
        "": cpu,
        "dinov2": dinov2,
        "swin": swin,
        "large": large,
        "reference": reference,
    }
    if arg not in variants:
        names = ", ".join(f":{name}" for name in variants if name)
        raise UserError(f"there is no variant {arg!r}; use cifar10.py, or one of {names}")
    config = default_config()
    config.dtype = "float32"
    config.batch_size = 64
    config.head.update(
        dict(hidden_dim=256, bottleneck_dim=64, prototypes=512, patch_prototypes=512)
    )
    config.loss.teacher_temp = 0.04
    config.data.update(
        dict(
            source="folder:data/cifar10",
            global_size=(32, 32),
            local_views=2,
            local_size=(16, 16),
            blur=(0.0, 0.0, 0.0),  # 32 pixels are blurred enough
            augment="host",  # a CPU has no faster device
            resize="pillow",
        )
    )
    config.knn.resize = 32
    variants[arg](config)
    return config


def cpu(config):
    """Sets what suits an hour on two cores: many cheap steps, and crops that keep the object."""
    config.model.update(dict(width=96, depth=4, heads=3, patch_size=8))
    short(config)


def dinov2(config):
    """Sets DINOv2's KoLeo, DINOv3's positions and LayerScale, and larger crops, on top of `cpu`.

    All of it was chosen on held-out training images, after one epoch.
    """
    cpu(config)
    config.duration = "22 epochs"  # which cost what 25 of `cpu` do
    config.method = "dinov2"
    config.model.update(dict(positions="rotary", layer_scale=0.1))
    config.loss.update(dict(targets="centering", koleo_weight=0.1))
    config.optim.lr = 4.5e-3
    config.data.local_scale = (0.2, 0.5)


def swin(config):
    """Sets a Swin of output tokens like those of `cpu`, 4 x 4 of width 96, and its recipe."""
    config.model.update(dict(arch="swin", width=24, patch_size=2, window=4))
    config.model.update(dict(stage_depths=(2, 2, 2), stage_heads=(1, 2, 4)))
    short(config)


def short(config):
    """Sets the recipe of short runs."""
    config.duration = "25 epochs"
    config.model.drop_path = 0.0
    config.loss.teacher_temp_warmup = "2 epochs"
    config.optim.update(
        dict(
            lr=3e-3,
            min_lr=1e-5,
            warmup="50000 examples",
            weight_decay_end=0.1,
            freeze_last_layer="100 steps",
        )
    )
    config.teacher_momentum = 0.99  # a short run: the teacher must follow sooner
    keep_the_object(config)
    config.knn.update(dict(every="1 epochs", max_train_per_class=500, max_test_per_class=200))
    config.log_every = "100 steps"


def keep_the_object(config):
    """Sets crops that leave enough of a 32-pixel image to tell what it shows."""
    config.data.update(
        dict(
            global_scale=(0.35, 1.0),
            local_views=4,
            local_scale=(0.1, 0.4),
            solarize=(0.0, 0.0, 0.0),
        )
    )


def large(config):
    """Sets what suits hours on a GPU."""
    config.duration = "200 epochs"
    config.batch_size = 256
    config.dtype = "bfloat16"
    config.model.update(dict(width=192, depth=9, heads=3, patch_size=4))
    config.head.update(
        dict(hidden_dim=1024, bottleneck_dim=256, prototypes=4096, patch_prototypes=4096)
    )
    config.loss.teacher_temp_warmup = "30 epochs"
    config.optim.update(dict(lr=1e-3, warmup="10 epochs"))
    config.data.augment = "device"
    keep_the_object(config)


def reference(config):
    """Sets the original's run."""
    config.model.update(dict(width=96, depth=4, heads=3, patch_size=4))
    config.duration = "30 epochs"
    config.loss.teacher_temp_warmup = "10 epochs"
    config.optim.update(dict(lr=2e-3, warmup="3 epochs"))
    config.data.max_per_class = 500
    config.knn.update(dict(every="2 epochs", max_train_per_class=500, max_test_per_class=200))
