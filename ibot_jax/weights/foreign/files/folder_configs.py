"""What the JSON files in a folder of timm or transformers say of the model beside them."""

from typing import Any

from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files.contents import parse_object
from ibot_jax.weights.foreign.preprocessing import Preprocessing, from_timm, from_transformers
from ibot_jax.weights.foreign.tensor_names import CLIP

# Types of model that transformers has, and LayerNorm's epsilon where their file does not say it.
_MODEL_TYPES = {
    "vit": 1e-12,
    "dinov2": 1e-6,
    "dinov2_with_registers": 1e-6,
    "dinov3_vit": 1e-5,
    "swin": 1e-5,
}
# What timm's model_args say: of sizes, what is another computation elsewhere, and what is none.
_TIMM_SIZES = {
    "num_heads": "heads",
    "depth": "depth",
    "embed_dim": "width",
    "patch_size": "patch_size",
    "in_chans": "channels",
    "reg_tokens": "registers",
}
_TIMM_FIXED = {
    "class_token": (True,),
    "pos_embed": ("learn",),
    "pre_norm": (False,),
    "proj_bias": (True,),
    "final_norm": (True,),
    "fc_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "act_layer": ("gelu",),
    "norm_layer": ("layernorm", "rmsnorm"),
}
# And of a rotary model, an Eva.
_TIMM_EVA_SIZES = _TIMM_SIZES | {"num_reg_tokens": "registers", "rope_temperature": "rope_base"}
_TIMM_EVA_FIXED = {
    "class_token": (True,),
    "rope_type": ("dinov3",),
    "rope_rotate_half": (True,),
    "use_rot_pos_emb": (True,),
    "use_abs_pos_emb": (False,),
    "use_fc_norm": (False,),
    "qkv_fused": (True,),
    "qk_norm": (False,),
}
# And of a Swin.
_TIMM_SWIN_SIZES = {
    "num_heads": "stage_heads",
    "depths": "stage_depths",
    "embed_dim": "width",
    "patch_size": "patch_size",
    "in_chans": "channels",
}
_TIMM_SWIN_FIXED = {
    "always_partition": (False,),
    "qkv_bias": (True,),
    "strict_img_size": (False, True),
}
_TRANSFORMERS_FIXED = {
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "proj_bias": True,
    "mlp_bias": True,
}
# What the names of timm's other models tell, and no tensor does.
_TIMM_OTHERS = {
    "quickgelu": "GELU is exact here",
    "_rope_": "rotary positions here are those of DINOv3",
    "_pe_": "rotary positions here are those of DINOv3",
}
# What tensors tell, or what makes no difference to them.
_TIMM_ELSE = ("img_size", "mlp_ratio", "init_values", "num_classes", "global_pool")
_TIMM_ELSE += ("dynamic_img_size", "dynamic_img_pad", "weight_init", "fix_init")
_TIMM_ELSE += ("qkv_bias", "qk_norm", "no_embed_class", "swiglu_mlp", "swiglu_align_to")


def read_configs(path: epath.Path) -> tuple[str, dict[str, Any]]:
    """Reads config.json and what lies beside it.

    Returns:
      The kind of folder, for people, and the facts of `files.Contents` that it tells.

    Raises:
      UserError: if they are damaged, or tell of another computation than that of models here.
    """
    name = path / "config.json"
    config = parse_object(name.read_bytes(), name)
    if "architecture" in config:
        return "folder of timm", _timm_facts(config, name)
    return "folder of transformers", _transformers_facts(config, name)


def _timm_facts(config: dict[str, Any], name: epath.Path) -> dict[str, Any]:
    args = config.get("model_args") or {}
    settings = config.get("pretrained_cfg", config)
    if not isinstance(args, dict) or not isinstance(settings, dict):
        raise UserError(f"{name} has model_args or pretrained_cfg that is no object; restore it")
    architecture = str(config["architecture"])
    for part, here in _TIMM_OTHERS.items():
        if part in architecture:
            raise UserError(f"{name} has architecture={architecture!r}; {here}")
    is_swin = architecture.startswith("swin_")
    sizes, fixed = _TIMM_SIZES, _TIMM_FIXED
    if is_swin:
        sizes, fixed = _TIMM_SWIN_SIZES, _TIMM_SWIN_FIXED
    elif "dinov3" in architecture:
        sizes, fixed = _TIMM_EVA_SIZES, _TIMM_EVA_FIXED
    for key, value in args.items():
        plain = key in sizes or (key in _TIMM_ELSE and key not in fixed) or key.endswith("_rate")
        plain |= is_swin and key == "window_size"  # which tables tell
        if not (plain or value is None or value in fixed.get(key, ())):
            raise UserError(
                f"{name} has model_args.{key}={value!r}, with which no model here computes"
            )
    input_size = settings.get("input_size")  # channels, height, width
    size = args.get("img_size") or (input_size[1:] if isinstance(input_size, list) else input_size)
    facts = {fact: args.get(key) or None for key, fact in sizes.items()}
    facts |= {"patch_size": _one_side(args.get("patch_size")), "size": _two_sides(size)}
    facts = _sound(facts, name) | _seen(from_timm(settings, str(name)), name)
    facts |= {key: args[key] for key in ("qk_norm",) if isinstance(args.get(key), bool)}
    if args.get("norm_layer") == "rmsnorm":
        facts["norm_kind"] = "rms"
    if isinstance(settings.get("license"), str):
        facts["license"] = settings["license"]
    return facts | {"resampling": (0.0, True)}


def _transformers_facts(config: dict[str, Any], name: epath.Path) -> dict[str, Any]:
    kind = config.get("model_type")
    if kind in ("clip", "clip_vision_model"):
        raise UserError(f"{name} is of {CLIP}")
    if kind not in _MODEL_TYPES:
        raise UserError(
            f"{name} has model_type={kind!r}; only {', '.join(_MODEL_TYPES)} can be converted"
        )
    fixed = dict(_TRANSFORMERS_FIXED)
    if config.get("use_gated_mlp"):
        fixed["hidden_act"] = "silu"
    elif config.get("use_swiglu_ffn"):  # SiLU whatever is said
        del fixed["hidden_act"]
    for key, needed in fixed.items():
        if config.get(key, needed) != needed:
            raise UserError(f"{name} has {key}={config[key]!r}; here it is {needed!r} always")
    if kind == "swin":
        facts = {
            "stage_heads": config.get("num_heads"),
            "stage_depths": config.get("depths"),
            "width": config.get("embed_dim"),
        }
    else:
        facts = {
            "heads": config.get("num_attention_heads"),
            "depth": config.get("num_hidden_layers"),
            "width": config.get("hidden_size"),
            "hidden": config.get("intermediate_size"),  # which DINOv2 has by a ratio
            "registers": config.get("num_register_tokens") or None,
            "rope_base": config.get("rope_theta"),
        }
    facts |= {
        "patch_size": _one_side(config.get("patch_size")),
        "channels": config.get("num_channels"),
        "size": _two_sides(config.get("image_size")),
        "epsilon": config.get("layer_norm_eps", _MODEL_TYPES[kind]),
    }
    preprocessor = name.with_name("preprocessor_config.json")
    if not preprocessor.exists():
        return _sound(facts, name)
    settings = {"pretrained_cfg": config.get("pretrained_cfg") or {}}
    settings |= parse_object(preprocessor.read_bytes(), preprocessor)
    seen = from_transformers(settings, str(preprocessor))
    return _sound(facts, name) | _seen(seen, preprocessor)


def _seen(seen: Preprocessing, name: epath.Path) -> dict[str, Any]:
    """Returns what is said of images, as facts."""
    sound = _sound({"mean": seen.mean, "std": seen.std}, name)
    return sound | {"view": seen.view, "notes": seen.notes}


def _two_sides(size: Any) -> Any:
    """Returns [height, width] of one side, or of {"height": ..., "width": ...}; else as it is."""
    if isinstance(size, dict) and size.keys() == {"height", "width"}:
        return [size["height"], size["width"]]
    return [size, size] if isinstance(size, int) else size


def _one_side(size: Any) -> Any:
    """Returns the side of a square, [side, side]; else as it is."""
    return size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size


def _sound(facts: dict[str, Any], name: epath.Path) -> dict[str, Any]:
    """Returns the facts that a file of a folder says, which are numbers or lists of them.

    Raises:
      UserError: if one is something else.
    """
    facts = {fact: value for fact, value in facts.items() if value is not None}
    for fact, value in facts.items():
        several = fact in ("size", "mean", "std", "stage_heads", "stage_depths")
        whole = fact not in ("mean", "std", "epsilon", "rope_base")
        numbers = value if several and isinstance(value, list) else [value]
        kinds = int if whole else int | float
        fits = all(isinstance(x, kinds) and not isinstance(x, bool) for x in numbers)
        if not fits or several != isinstance(value, list) or (fact == "size" and len(value) != 2):
            raise UserError(f"{name} or a file beside it has {fact}={value!r}; restore it")
        if whole and min(numbers) < 1:
            raise UserError(f"{name} has {fact}={value!r}; restore it")
    return facts
