"""scikit-learn's embedded handwritten digits: nothing to download, minutes on two cores.

Small and grey images have no colours to tell them apart by, so two views of one image agree little
before training. The class loss leaves the uniform distribution only if that agreement times
student_temp / teacher_temp is above 1; hence crops that keep most of a digit, and a teacher that is
sharp at first and softens later.

    configs/digits.py         DINOv2's losses: targets balanced over a batch, images spread, heads
                              of their own for patches
    configs/digits.py:ibot    the original's
"""

from ibot_jax.config import get_config as default_config
from ibot_jax.errors import UserError


def get_config(arg: str = ""):
    """Returns the config of a variant."""
    if arg not in ("", "ibot"):
        raise UserError(f"there is no variant {arg!r}; use digits.py or digits.py:ibot")
    config = default_config()
    config.duration = "60 epochs"
    config.batch_size = 32
    config.dtype = "float32"
    config.model.update(dict(width=64, depth=4, heads=4, patch_size=8, drop_path=0.0))
    config.head.update(
        dict(hidden_dim=128, bottleneck_dim=32, prototypes=128, patch_prototypes=128)
    )
    config.loss.update(
        dict(
            teacher_temp_start=0.02,
            teacher_temp=0.035,
            teacher_patch_temp=0.06,
            teacher_temp_warmup="30 epochs",
        )
    )
    config.optim.update(dict(lr=8e-3, warmup="4 epochs", weight_decay_end=0.1))
    config.teacher_momentum = 0.99  # a short run: the teacher must follow sooner
    config.data.update(
        dict(
            source="digits",
            channels=1,
            mean=(0.3,),
            std=(0.37,),
            global_size=(24, 24),
            global_scale=(0.7, 1.0),
            local_views=2,
            local_size=(16, 16),
            local_scale=(0.5, 0.8),
            aspect=(0.9, 1 / 0.9),
            flip=0.0,  # a mirrored digit is no digit
            brightness=0.3,
            contrast=0.3,
            gray=0.0,
            blur=(0.0, 0.0, 0.0),
            solarize=(0.0, 0.0, 0.0),
            augment="host",  # tiny views: nothing to gain
            resize="pillow",
        )
    )
    config.knn.update(dict(resize=24, every="10 epochs"))
    config.log_every = "5 epochs"
    config.checkpoint.every = "10 epochs"
    if not arg:
        balance(config)
    return config


def balance(config):
    """Sets DINOv2's losses, with which few small images use all prototypes from the start."""
    config.method = "dinov2"
    config.loss.update(dict(targets="sinkhorn", koleo_weight=0.1))
    config.head.update(dict(separate=True, shared=False, shared_teacher=False))
