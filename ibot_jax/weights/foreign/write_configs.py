"""The config.json of a model, for timm and for transformers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ibot_jax.config.section import Section
from ibot_jax.config.sizes import SWIN_SIZES
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.weights.description import described_model, described_view
from ibot_jax.weights.foreign import swin, vit
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
        refuse(swin.otherwise_in_timm(model, size), "timm")
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
        refuse(vit.otherwise_in_timm(model), "timm")
        name, options = _timm_vit(model)
        args |= {
            "depth": model.depth,
            "num_heads": model.heads,
            "init_values": model.layer_scale or None,
            "dynamic_img_size": True,
            **options,
        }
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": geometry_of(model).width,
        "model_args": args,
        "pretrained_cfg": pretrained_cfg,
    }, remarks


def _timm_vit(model: Section) -> tuple[str, dict[str, Any]]:
    """Returns the name of a model of timm that a ViT is one of, and its options' arguments."""
    gated, (hidden,) = model.ffn == "swiglu", geometry_of(model).hidden
    if model.positions == "rotary":
        masked = model.qkv_bias == "masked_key"
        name = f"vit_small{'_plus' if gated else ''}_patch16_dinov3{'_qkvb' if masked else ''}"
        return name, {
            "mlp_ratio": _ratio(hidden, model.width),
            "global_pool": "token",
            "num_reg_tokens": model.registers,
            "qkv_bias": masked,
            "rope_temperature": model.rope_base,
            **({"swiglu_align_to": 1} if gated else {}),
        }
    options: dict[str, Any] = {"mlp_ratio": _ratio(2 * hidden if gated else hidden, model.width)}
    if model.registers:
        options |= {"reg_tokens": model.registers, "no_embed_class": True}
    if model.qkv_bias == "none":
        options["qkv_bias"] = False
    if model.qk_norm:
        options["qk_norm"] = True
    if model.norm_kind == "rms":
        options["norm_layer"] = "rmsnorm"
    if gated:  # its classes of layers cannot be said in JSON
        return f"vit_giant_patch14_{'reg4_' if model.registers else ''}dinov2", options
    return f"vit_{_TIMM_VITS.get(model.width, 'base')}_patch16_224", options


def _ratio(hidden: int, width: int) -> float:
    """Returns the ratio whose product with the width is cut to `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


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


def transformers_config(model: Section, description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json for transformers.

    Args:
      model: the config's section.
      description: what else is known of it, see `description.describe`.

    Raises:
      UserError: if its model of this kind computes something else.
    """
    size = list(description["global_size"])
    if model.arch == "swin":
        refuse(swin.otherwise_in_transformers(model, size), "hf")
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
        refuse(vit.otherwise_in_transformers(model), "hf")
        sizes = {
            "hidden_size": model.width,
            "num_hidden_layers": model.depth,
            "num_attention_heads": model.heads,
            **_transformers_vit(model),
        }
    return (
        {"hidden_act": "gelu", "qkv_bias": True, "torch_dtype": "float32"}
        | sizes
        | {
            "layer_norm_eps": model.norm_eps,
            "image_size": size[0] if size[0] == size[1] else size,
            "patch_size": model.patch_size,
            "num_channels": description["channels"],
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
    )


def _transformers_vit(model: Section) -> dict[str, Any]:
    """Returns what says which of transformers' models a ViT is, and its options."""
    gated, (hidden,) = model.ffn == "swiglu", geometry_of(model).hidden
    if model.positions == "rotary":
        return {
            "architectures": ["DINOv3ViTModel"],
            "model_type": "dinov3_vit",
            "intermediate_size": hidden,
            "use_gated_mlp": gated,
            "hidden_act": "silu" if gated else "gelu",
            "query_bias": model.qkv_bias != "none",
            "key_bias": model.qkv_bias == "full",
            "value_bias": model.qkv_bias != "none",
            "num_register_tokens": model.registers,
            "rope_theta": model.rope_base,
            "pos_embed_shift": model.rope_shift or None,
            "pos_embed_jitter": model.rope_jitter if model.rope_jitter != 1 else None,
            "pos_embed_rescale": model.rope_rescale if model.rope_rescale != 1 else None,
        }
    biases = {"qkv_bias": model.qkv_bias != "none"}
    if not (model.layer_scale or model.registers or gated):
        vit_model = {"architectures": ["ViTModel"], "model_type": "vit"}
        return biases | vit_model | {"intermediate_size": hidden}
    name = "Dinov2WithRegisters" if model.registers else "Dinov2"
    ratios = [
        ratio
        for ratio in range(1, 65)
        if hidden
        == (-(-int(model.width * ratio * 2 / 3) // 8) * 8 if gated else model.width * ratio)
    ]
    if not ratios:
        words = f"{name} has no {'gated ' if gated else ''}networks of {hidden} hidden units"
        refuse(f"{words} at a width of {model.width}", "hf")
    registers = {"num_register_tokens": model.registers} if model.registers else {}
    return (
        biases
        | registers
        | {
            "architectures": [f"{name}Model"],
            "model_type": "dinov2_with_registers" if model.registers else "dinov2",
            "mlp_ratio": ratios[0],
            "use_swiglu_ffn": gated,
        }
    )


def refuse(otherwise: str, to: str, instead: str = "pth") -> None:
    """Raises a UserError if a format's reader would compute something else."""
    if otherwise:
        raise UserError(f"--to={to} would compute otherwise: {otherwise}; use --to={instead}")
