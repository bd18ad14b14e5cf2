"""The best features from a folder of images, ViT-S/16: what the heirs of iBOT found, together.

    python -m ibot_jax.main --config=recommended_vits16 --config.data.source=folder:PATH

Chosen by published figures only, and these are of ImageNet and of ViT-L (DINOv2's steps from iBOT,
k-NN in percentage points): nothing of it has been measured at these sizes here. Each choice has its
reason and source below. Durations are shares, so that a run of any length does.

For smaller batches (`--config.batch_size=128`) the header of a run suggests a momentum. Where
memory is short: `--config.model.remat=blocks`; balanced targets and KoLeo need whole batches, so
there is no `grad_accum_steps`.
"""

from ibot_jax.config import DINOV3, VIT_SIZES, apply_pod
from ibot_jax.config import get_config as default_config


def get_config(pod=""):
    """Returns the config, by option with the settings for a pod, one of `config.PODS`."""
    config = default_config()
    config.method = "dinov2"
    config.duration = "200 epochs"  # DINOv2's and DINOv3's ViT-L/16 on ImageNet-1k
    # DINOv3's architecture, so that others read exports as they read its models: LayerScale (with
    # drop path +0.9), registers (no outliers among patches), rotary positions (any size of image).
    config.model.update(VIT_SIZES["small"] | DINOV3)
    config.model.drop_path = 0.1  # iBOT's ViT-S/16
    config.model.drop_path_kind = "uniform"  # DINOv2
    # Untied heads: +0.3. Prototypes: DINOv2's and DINOv3's on ImageNet-1k; 131,072 had +1.2 on
    # ImageNet-22k, but two such heads have three times the parameters of ViT-S/16.
    config.head.update(dict(separate=True, shared=False, shared_teacher=False, weight_norm=False))
    config.head.update(dict(prototypes=65536, patch_prototypes=65536))
    # Sinkhorn: 0.0, but no centers that lag behind. KoLeo: +2.3, there among the images of a GPU;
    # here of the whole batch, so that any number of images and devices does. Warm-ups: +1.1.
    config.loss.update(dict(targets="sinkhorn", koleo_weight=0.1, teacher_temp_warmup="30%"))
    config.masks.kind = "dinov3"  # exact counts, so that a device's work is steady
    config.teacher_momentum = 0.994  # +0.5 in DINOv2; iBOT's is 0.996
    # DINOv2's and DINOv3's but for the rate: at 1,024 images it is the 2e-3 of iBOT's ViT-S/16.
    config.optim.update(dict(lr=1e-3, lr_scaling="sqrt", warmup="10%", clip_by="module"))
    config.optim.update(dict(layer_decay=0.9, rates="backbone/patch_embed: 0.2"))
    config.optim.update(dict(freeze_last_layer="1%", freeze_last_layer_by="rate"))
    # DINOv2's views: crops of a third of the image at least, eight local ones.
    config.data.update(dict(global_scale=(0.32, 1.0), local_views=8, local_scale=(0.05, 0.32)))
    apply_pod(config, pod)
    return config
