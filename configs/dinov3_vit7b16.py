"""DINOv3's ViT-7B/16: a million steps of 4,096 at constant rates, on what you give it.

    --config.data.source=folder:PATH

    configs/dinov3_vit7b16.py         the first million steps
    configs/dinov3_vit7b16.py:gram    and 40,000 with gram anchoring, in one run; how many they
                                      are is our choice

There it was LVD-1689M, which is not public, and every tenth batch was of ImageNet-1K alone. Of a
pod, too: `:v5p-512`, `:gram,v5p-512`. What follows there, views of several sizes, is said by the
keys `high_res.*`: docs/recipes.md.

A run departs from it in this: in the gram stage there, pairs with a local view count half
(`loss.local_weight`); neighbours of KoLeo are sought among 16 consecutive images; masks are dealt
out over the whole batch, there over a GPU's. Value by value, and what is quoted from memory:
docs/recipes.md. Not run here.
"""

from ibot_jax.config import DINOV3, VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(options=""):
    """Returns the config, by option with the gram stage, and with the settings for a pod."""
    first, _, rest = options.partition(",")
    gram, pod = (True, rest) if first == "gram" else (False, options)
    config = default_config()
    config.method = "dinov2"
    config.duration = "1000000 steps"
    config.batch_size = 4096
    config.model.update(VIT_SIZES["7b"] | DINOV3)
    config.model.update(dict(qkv_bias="none", untie_local_norm=True, rope_dtype="bfloat16"))
    config.model.update(dict(drop_path=0.4, drop_path_kind="uniform", scan_blocks=True))
    config.head.update(dict(separate=True, shared=False, shared_teacher=False, weight_norm=False))
    config.head.update(dict(hidden_dim=8192, bottleneck_dim=512, prototypes=262144))
    config.head.update(
        dict(patch_hidden_dim=4096, patch_bottleneck_dim=384, patch_prototypes=98304)
    )
    config.loss.update(dict(targets="sinkhorn", koleo_weight=0.1, koleo_group=16))
    config.loss.teacher_temp_warmup = "100000 steps"
    config.masks.kind = "dinov3"
    config.update(dict(teacher_momentum=0.999, teacher_momentum_end=0.999))
    config.optim.update(dict(lr=1e-4, lr_scaling="sqrt", schedule="constant"))
    config.optim.update(dict(warmup="100000 steps", weight_decay_end=0.04, betas=(0.9, 0.99)))
    config.optim.update(dict(layer_decay=0.98, rates="backbone/patch_embed: 0.2"))
    config.optim.update(dict(clip=30.0, clip_by="module", freeze_last_layer="5000 steps"))
    config.optim.freeze_last_layer_by = "rate"
    config.data.update(dict(global_size=(256, 256), global_scale=(0.32, 1.0), flip=0.0))
    config.data.update(dict(local_views=8, local_size=(112, 112), local_scale=(0.05, 0.32)))
    config.knn.every = "10000 steps"
    config.checkpoint.every = "2500 steps"  # an epoch may be months
    if gram:
        config.duration = "1040000 steps"
        config.gram.update(dict(weight=2.0, start="1000000 steps", every="10000 steps", updates=3))
    apply_pod(config, pod)
    if pod == "v5p-512":
        config.mesh.update(data=1, fsdp=128, tensor=4)
        config.model.remat = (
            "blocks"  # 21.5 of 95.7 GiB a chip by the compiler: docs/performance.md
        )
    return config
