"""DINOv3's ViT-L/16 on ImageNet-1K: 125,000 steps of 2,048, 82.0 % k-NN, 83.5 % linear published.

    configs/dinov3_vitl16.py         the published run, which has no gram loss
    configs/dinov3_vitl16.py:gram    with a gram stage in its last fifth, as DINOv3's 7B has one
                                     behind its first million steps; when it begins is our choice

Of a pod, too: `:v5e-64`, `:gram,v5e-64`. Epochs of DINOv3's program are 1,250 steps, whatever the
data, so durations are in steps here.

A run departs from it in this: the neighbours of KoLeo are sought in groups of 64 consecutive
images, a GPU's there, on any number of devices; masks are dealt out over the whole batch, there
over a GPU's. Value by value, and what is quoted from memory: docs/recipes.md. Not run to the end
here.
"""

from ibot_jax.config import VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(options=""):
    """Returns the config, by option with the gram stage, and with the settings for a pod."""
    first, _, rest = options.partition(",")
    gram, pod = (True, rest) if first == "gram" else (False, options)
    config = default_config()
    config.method = "dinov2"
    config.duration = "125000 steps"
    config.batch_size = 2048
    config.model.update(VIT_SIZES["large"])
    config.model.update(dict(drop_path=0.3, drop_path_kind="uniform", layer_scale=1e-5))
    config.model.update(dict(positions="rotary", rope_dtype="bfloat16"))
    config.head.update(dict(separate=True, shared=False, shared_teacher=False, weight_norm=False))
    config.head.update(dict(prototypes=65536, patch_prototypes=65536))
    config.loss.update(dict(targets="sinkhorn", koleo_weight=0.1, koleo_group=64))
    config.loss.teacher_temp_warmup = "37500 steps"
    config.masks.kind = "dinov3"
    config.teacher_momentum = 0.992
    config.optim.update(dict(lr=2e-3, lr_scaling="sqrt", warmup="12500 steps"))
    config.optim.update(dict(layer_decay=0.9, rates="backbone/patch_embed: 0.2", clip_by="module"))
    config.optim.update(dict(freeze_last_layer="1250 steps", freeze_last_layer_by="rate"))
    config.data.update(dict(source="tfds:imagenet2012", global_scale=(0.32, 1.0)))
    config.data.update(dict(local_views=8, local_scale=(0.05, 0.32)))
    config.knn.every = "12500 steps"
    if gram:
        config.gram.update(dict(weight=2.0, start="80%", every="10000 steps", updates=3))
    apply_pod(config, pod)
    if pod == "v5e-64":
        config.mesh.update(data=1, fsdp=64)
        config.model.update(dict(remat="blocks", scan_blocks=True))  # docs/performance.md
    return config
