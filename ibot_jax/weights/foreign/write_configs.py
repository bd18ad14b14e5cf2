"""The config.json of a model, for timm and for transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

from ibot_jax.config.sizes import SWIN_SIZES
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.weights.description import described_model, described_view
from ibot_jax.weights.foreign import swin
from ibot_jax.weights.foreign.preprocessing import to_timm

# timm's names of the published sizes; all of a model's numbers are in its config besides.
_TIMM_VITS = {192: "tiny", 384: "small", 768: "base", 1024: "large"}


def timm_config(description: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    """Returns config.json for timm, and remarks on pixels that it makes otherwise.

    Raises:
      UserError: if timm's model of this kind computes something else.
    """
    pretrained_cfg, remarks = timm_pretrained_cfg(description)
    model, size = described_model(description), list(description["global_size"])
    one_size = pretrained_cfg["input_size"][1:] == size
    args = {
        "img_size": size,
        "patch_size": model.patch_size,
        "in_chans": description["channels"],
        "embed_dim": model.width,
        "mlp_ratio": model.mlp_ratio,
    }
    if model.arch == "swin":
        _refuse(swin.otherwise_in_timm(model, size), "timm")
        sizes = {name: size | {"window": model.window} for name, size in SWIN_SIZES.items()}
        shape = {key: getattr(model, key) for key in sizes["tiny"]}
        name = next((name for name, size in sizes.items() if size == shape), "tiny")
        name = f"swin_{name}_patch4_window7_224"
        args |= {
            "depths": list(model.stage_depths),
            "num_heads": list(model.stage_heads),
            "window_size": model.window,
            **({} if one_size else {"strict_img_size": False}),
        }
    else:
        name = f"vit_{_TIMM_VITS.get(model.width, 'base')}_patch16_224"
        args |= {
            "depth": model.depth,
            "num_heads": model.heads,
            "init_values": model.layer_scale or None,
            **({} if one_size else {"dynamic_img_size": True}),
        }
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": geometry_of(model).width,
        "model_args": args,
        "pretrained_cfg": pretrained_cfg,
    }, remarks


def timm_pretrained_cfg(description: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    """Returns what timm is to know of images, and remarks on pixels that it makes otherwise."""
    view = described_view(dict(description), "the model")
    settings, remarks = to_timm(view)
    is_swin = description["model"]["arch"] == "swin"
    return settings | {
        "input_size": [description["channels"], *view.size],
        "fixed_input_size": True,
        "mean": list(description["mean"]),
        "std": list(description["std"]),
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head.fc" if is_swin else "head",
    }, remarks


def transformers_config(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json for transformers.

    Raises:
      UserError: if its model of this kind computes something else.
    """
    model, size = described_model(description), list(description["global_size"])
    if model.arch == "swin":
        _refuse(swin.otherwise_in_transformers(model, size), "hf")
        sizes = {
            "architectures": ["SwinModel"],
            "model_type": "swin",
            "embed_dim": model.width,
            "depths": list(model.stage_depths),
            "num_heads": list(model.stage_heads),
            "window_size": model.window,
            "mlp_ratio": model.mlp_ratio,
            "use_absolute_embeddings": False,
        }
    else:
        sizes = {
            "architectures": ["ViTModel"],
            "model_type": "vit",
            "hidden_size": model.width,
            "num_hidden_layers": model.depth,
            "num_attention_heads": model.heads,
            "intermediate_size": int(model.width * model.mlp_ratio),
        }
    return sizes | {
        "hidden_act": "gelu",
        "layer_norm_eps": model.norm_eps,
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": model.patch_size,
        "num_channels": description["channels"],
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "torch_dtype": "float32",
    }


def _refuse(otherwise: str, to: str) -> None:
    if otherwise:
        raise UserError(f"--to={to} would compute otherwise: {otherwise}; use --to=pth")
