"""What a backbone is, in words: for headers, cards and pages."""

from ibot_jax.config.section import Section

NAMES = {"vit": "Vision Transformer", "swin": "Swin Transformer"}  # by model.arch


def in_words(model: Section) -> str:
    """Returns what kind of backbone a config's section `model` asks for, and its sizes."""
    if model.arch == "swin":
        depths, heads = (
            ", ".join(map(str, numbers)) for numbers in (model.stage_depths, model.stage_heads)
        )
        return (
            f"Swin of width {model.width}, depths {depths}, heads {heads}, window {model.window}, "
            f"patch {model.patch_size}"
        )
    return (
        f"ViT of width {model.width}, depth {model.depth}, {model.heads} heads, patch "
        f"{model.patch_size}"
    )
