"""CIFAR-10 in class folders, train/CLASS/* and test/CLASS/*, 32 pixels.

`configs/cifar10.py:reference` is the budget under which the original was measured: 5,000 training
and 2,000 test images, 30 epochs. Point `--config.data.source=folder:PATH` to the images.
"""

from ibot_jax.config import get_config as default_config
from ibot_jax.errors import UserError


def get_config(arg: str = ""):
    """Returns the config for all 50,000 images, or with arg "reference" that of the original."""
    if arg not in ("", "reference"):
        raise UserError(f"there is no variant {arg!r}; use cifar10.py or cifar10.py:reference")
    config = default_config()
    config.duration = "200 epochs"
    config.batch_size = 256
    config.dtype = "float32"
    config.model.update(dict(width=192, depth=9, heads=3, patch_size=4, drop_path=0.1))
    config.head.update(
        dict(hidden_dim=1024, bottleneck_dim=256, prototypes=4096, patch_prototypes=4096)
    )
    config.loss.update(dict(teacher_temp=0.04, teacher_temp_warmup="30 epochs"))
    config.optim.update(dict(lr=1e-3, warmup="10 epochs"))
    config.data.update(
        dict(
            source="folder:data/cifar10",
            global_size=(32, 32),
            local_views=4,
            local_size=(16, 16),
            blur=(0.0, 0.0, 0.0),  # 32 pixels are blurred enough
        )
    )
    config.knn.resize = 32
    return reference(config) if arg else config


def reference(config):
    """Turns the config into that of the original's run."""
    config.duration = "30 epochs"
    config.batch_size = 64
    config.model.update(dict(width=96, depth=4, heads=3))
    config.head.update(
        dict(hidden_dim=256, bottleneck_dim=64, prototypes=512, patch_prototypes=512)
    )
    config.loss.teacher_temp_warmup = "10 epochs"
    config.optim.update(dict(lr=2e-3, warmup="3 epochs"))
    config.data.update(dict(local_views=2, max_per_class=500))
    config.knn.update(dict(every="2 epochs", max_train_per_class=500, max_test_per_class=200))
    return config
