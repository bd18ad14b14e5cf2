"""Sizes of backbones by name."""

# The published widths, depths and head counts: `config.model.update(VIT_SIZES["small"])`.
VIT_SIZES = {
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
}


def _swin(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> dict:
    return dict(arch="swin", patch_size=4, width=width, stage_depths=depths, stage_heads=heads)


# Those of Swin: `config.model.update(SWIN_SIZES["tiny"], window=14)`.
SWIN_SIZES = {
    "tiny": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": _swin(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
