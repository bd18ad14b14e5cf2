"""Sizes of backbones by name."""

# The published widths, depths and head counts: `config.model.update(VIT_SIZES["small"])`. Those
# with gated networks are DINOv2's ("giant") and DINOv3's, which have rotary positions besides.
VIT_SIZES = {
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "small_plus": dict(width=384, depth=12, heads=6, ffn="swiglu", hidden_dim=1536),
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
    "large_plus": dict(width=1024, depth=24, heads=16, ffn="swiglu", hidden_dim=4096),
    "huge_plus": dict(width=1280, depth=32, heads=20, ffn="swiglu", hidden_dim=5120),
    "giant": dict(width=1536, depth=40, heads=24, ffn="swiglu", hidden_dim=4096),
    "7b": dict(width=4096, depth=40, heads=32, ffn="swiglu", hidden_dim=8192),
}


# What the published models of DINOv2 and DINOv3 have besides:
# `config.model.update(VIT_SIZES["small"] | DINOV3)`. Those of DINOv2 "with registers" have 4.
DINOV2 = dict(patch_size=14, layer_scale=1e-5)
DINOV3 = dict(
    patch_size=16,
    layer_scale=1e-5,
    registers=4,
    positions="rotary",
    rope_rescale=2.0,
    qkv_bias="masked_key",
    norm_eps=1e-5,
)


def _swin(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> dict:
    return dict(arch="swin", patch_size=4, width=width, stage_depths=depths, stage_heads=heads)


# Those of Swin: `config.model.update(SWIN_SIZES["tiny"], window=14)`.
SWIN_SIZES = {
    "tiny": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": _swin(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}

SIZES = {"vit": VIT_SIZES, "swin": SWIN_SIZES}  # by `model.arch`
