"""My folder, their weights: goes on from a model that others have trained, on images of one's own.

    python -m ibot_jax.main --config=continue --config.init_from=FILE \
        --config.data.source=folder:PATH

FILE is whatever `init_from` takes (docs/weights.md). It tells the model: architecture, size and
normalisation of images; a key that is set here or on the command line and that it contradicts is
refused. Where a file cannot tell the number of attention heads, --config.model.heads=N does. Images
of another size than the file's are --config.data.global_size=224,224; local views follow.

    configs/continue.py, :small   for thousands of images: a short run, small steps, a slow teacher
    configs/continue.py:large     for a hundred thousand and more

Fresh heads drag features along until they fit them. So they learn alone for the first tenth of the
run, the backbone thaws while the rate still rises, its own rate is a tenth (large: a fifth) of that
of a training from scratch, and the teacher moves slowly. --config.knn.old_source=folder:OLD
measures images that the weights knew at every evaluation, and a warning tells when k-NN falls.
"""

from ibot_jax.config import get_config as default_config
from ibot_jax.config import leave_open
from ibot_jax.errors import UserError


def get_config(arg: str = ""):
    """Returns the config of a variant."""
    variants = {"": small, "small": small, "large": large}
    if arg not in variants:
        raise UserError(f"there is no variant {arg!r}; use continue.py, :small or :large")
    config = default_config()
    leave_open(config)
    config.loss.update(dict(teacher_temp_start=0.04, teacher_patch_temp_start=0.04))
    config.optim.update(dict(min_lr=1e-6, clip=1.0, weight_decay_end=0.1, warmup="20%"))
    config.optim.update(dict(freeze="backbone: 10%", freeze_last_layer="0 steps"))
    config.data.local_views = 8
    config.log_every = "20 steps"
    variants[arg](config)
    return config


def small(config):
    """Sets what suits thousands of images: few and small steps, soft targets, a slow teacher."""
    config.duration = "50 epochs"
    config.batch_size = 64
    config.loss.update(dict(teacher_temp=0.06, teacher_patch_temp=0.06, teacher_temp_warmup="50%"))
    config.optim.update(dict(lr=5e-4, rates="backbone: 0.1"))
    config.teacher_momentum = 0.996
    config.model.drop_path = 0.0
    config.knn.every = "5 epochs"


def large(config):
    """Sets what suits a hundred thousand images and more."""
    config.duration = "20 epochs"
    config.batch_size = 512
    config.loss.update(dict(teacher_temp=0.07, teacher_patch_temp=0.07, teacher_temp_warmup="30%"))
    config.optim.update(dict(lr=5e-4, rates="backbone: 0.2"))
    config.teacher_momentum = 0.998
    config.model.drop_path = 0.1
    config.knn.every = "2 epochs"
