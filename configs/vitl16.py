"""ViT-L/16 on ImageNet-1K as published: 250 epochs, 78.0 % k-NN, 81.0 % linear.

Sources as for `vitb16.py`, whose settings it shares but for size, length and stochastic depth.
"""

from ibot_jax.config import VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.duration = "250 epochs"
    config.model.update(VIT_SIZES["large"])
    config.model.drop_path = 0.4
    config.loss.teacher_temp_warmup = "50 epochs"
    config.optim.update(dict(lr=7.5e-4, min_lr=2e-6, clip=0.3, freeze_last_layer="3 epochs"))
    config.data.update(
        dict(source="tfds:imagenet2012", global_scale=(0.32, 1.0), local_scale=(0.05, 0.32))
    )
    config.knn.every = "25 epochs"
    apply_pod(config, pod)
    if pod == "v5e-16":
        config.grad_accum_steps = 4  # a chip has 64 images, and memory for fewer
    if pod == "v5p-64":
        config.mesh.update(data=1, fsdp=64)  # less memory and, by the compiler's figures, less time
    return config
