"""Sizes of backbones by name."""

# The published widths, depths and head counts: `config.model.update(VIT_SIZES["small"])`.
VIT_SIZES = {
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
}
