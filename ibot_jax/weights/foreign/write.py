"""Writes models as other projects want them.

    pth         one file, PyTorch's format and the original's names
    timm        a folder that timm.create_model("local-dir:FOLDER", pretrained=True) reads
    hf          a folder that transformers.ViTModel.from_pretrained(FOLDER) reads
    checkpoint  a folder of student, teacher and centers, for --config.init_from

This project's own description of the model goes along, where `contents` finds it again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.atomic import renamed
from ibot_jax.files.json_files import as_json
from ibot_jax.weights.description import described_view
from ibot_jax.weights.foreign import dialects, original_names
from ibot_jax.weights.foreign.files.contents import DESCRIPTION
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes
from ibot_jax.weights.foreign.preprocessing import to_timm, to_transformers
from ibot_jax.weights.foreign.read import Found
from ibot_jax.weights.formats import CONFIG, import_safetensors
from ibot_jax.weights.hashes import flat_tensors
from ibot_jax.weights.quoting import quoted
from ibot_jax.weights.write import CARD, write_file, write_items

MakeCard = Callable[..., str]  # `card.make_card` with all but what depends on the format
_MASK_TOKEN = "backbone.masked_embed"
_MODEL, _PREPROCESSOR = "model.safetensors", "preprocessor_config.json"
FOLDERS = {
    "timm": (_MODEL, CONFIG, CARD),
    "hf": (_MODEL, CONFIG, _PREPROCESSOR, CARD),
    "checkpoint": ("student", "teacher", "centers", CONFIG, CARD),
}

# timm's names of the published sizes; all of a model's numbers are in its config besides.
_TIMM_NAMES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}


def write_pth(target: epath.Path, found: Found, make_card: MakeCard) -> None:
    """Writes what the original's evaluation code and torch.load(..., weights_only=True) read."""
    ((who, params),) = found.params.items()
    prefix = "module." if who == "student" else ""  # as torch's DistributedDataParallel has it
    tensors = original_names.to_torch(params, found.description["model"]["patch_size"])
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    content = torch_bytes({who: tensors, DESCRIPTION: as_json(found.description)})
    text = make_card(
        tensors=tensors,
        reading=f"""
            import torch

            checkpoint = torch.load({quoted(target.name)}, weights_only=True)
            tensors = {{name: tensor.numpy() for name, tensor in checkpoint["{who}"].items()}}
            """,
        usage=f"""
            import torch

            tensors = torch.load({quoted(target.name)}, weights_only=True)["{who}"]
            tensors = {{
                name.removeprefix("module.").removeprefix("backbone."): tensor
                for name, tensor in tensors.items()
            }}
            model.load_state_dict(tensors, strict=False)  # a vit_* of the original's models
            """,
        library="pytorch",
    )
    write_file(target, content, text)


def write_timm(target: epath.Path, found: Found, make_card: MakeCard) -> Sequence[str]:
    """Writes a folder for timm; the mask token stays behind, for timm's models have none.

    Returns:
      Remarks on pixels that timm makes otherwise.
    """
    config, remarks = _timm_config(found.description)
    tensors = dialects.to_dialect(dialects.TIMM, _backbone(found))
    text = make_card(
        tensors=tensors,
        reading=_reading(target),
        usage=f"""
            import timm

            folder = {quoted(f"local-dir:{target.name}")}
            model = timm.create_model(folder, pretrained=True).eval()
            transform = timm.data.create_transform(
                **timm.data.resolve_model_data_config(model), is_training=False
            )
            images = transform(image)[None]  # from a picture of Pillow's to [1, C, H, W]
            tokens = model.forward_features(images)  # [1, 1 + N, D]
            """,
        library="timm",
        remarks=remarks,
    )
    _write_folder(target, tensors, found, text, {CONFIG: config})
    return remarks


def write_hf(target: epath.Path, found: Found, make_card: MakeCard) -> Sequence[str]:
    """Writes a folder for transformers' ViTModel, without its pooler.

    A ViTModel has no LayerScale: gains are multiplied into the layers before them.

    Returns:
      Remarks on pixels that its image processor makes otherwise.
    """
    description = found.description
    view = described_view(description, target.name)
    preprocessor, remarks = to_transformers(view, description["mean"], description["std"])
    if list(view.size) != list(description["global_size"]):
        remarks += ("its model takes images of this size with interpolate_pos_encoding=True",)
    tensors = dialects.to_dialect(dialects.HUGGING_FACE, _without_layer_scale(_backbone(found)))
    text = make_card(
        tensors=tensors,
        reading=_reading(target),
        usage=f"""
            from transformers import AutoImageProcessor, ViTModel

            processor = AutoImageProcessor.from_pretrained({quoted(target.name)})
            model = ViTModel.from_pretrained({quoted(target.name)}, add_pooling_layer=False)
            tokens = model(**processor(image, return_tensors="pt")).last_hidden_state
            """,
        library="transformers",
        remarks=remarks,
    )
    config = _hf_config(description, tensors)
    if "size" not in preprocessor:  # where its class looks for timm's settings
        config |= preprocessor | {"pretrained_cfg": _pretrained_cfg(description)[0]}
    configs = {CONFIG: config, _PREPROCESSOR: preprocessor}
    _write_folder(target, tensors, found, text, configs)
    return remarks


def write_checkpoint(target: epath.Path, found: Found, make_card: MakeCard) -> None:
    """Writes TARGET/student, TARGET/teacher and TARGET/centers, each an Orbax checkpoint.

    Of one set of weights student and teacher are made alike, as at the start of a run; centers
    that the file lacks are zero, as there.
    """
    head = found.description["head"]
    ((_, first), *_) = found.params.items()
    patch_prototypes = head["prototypes" if head["shared_teacher"] else "patch_prototypes"]
    zeros = {
        "class": np.zeros(head["prototypes"], np.float32),
        "patch": np.zeros(patch_prototypes, np.float32),
    }
    items = {
        "student": found.params.get("student", first),
        "teacher": found.params.get("teacher", first),
        "centers": found.centers or zeros,
    }
    text = make_card(
        source=target.name,
        tensors=flat_tensors(items),
        reading=f"""
            import pathlib

            import jax
            import orbax.checkpoint as ocp

            with ocp.StandardCheckpointer() as checkpointer:
                folder = pathlib.Path({quoted(target.name)}).absolute()
                items = {{
                    item: checkpointer.restore(folder / item)
                    for item in ("student", "teacher", "centers")
                }}
            tensors = {{
                jax.tree_util.keystr(path, simple=True, separator="."): array
                for path, array in jax.tree_util.tree_leaves_with_path(items)
            }}
            """,
        usage=f"""
            import ibot_jax

            model, params = ibot_jax.load({quoted(target.name)})
            tokens = model.features(params, images)  # of uint8 [B, H, W, C]
            tokens.cls, tokens.patches  # [B, D], [B, h, w, D]
            """,
    )
    write_items(target, items, found.description, text)


def _backbone(found: Found) -> dict[str, np.ndarray]:
    """Returns the backbone's tensors by the original's names, without its mask token.

    Raises:
      UserError: of a Swin, which other projects name otherwise.
    """
    if found.description["model"].get("arch") == "swin":
        raise UserError("a Swin Transformer has no names but the original's here; use --to=pth")
    (params,) = found.params.values()
    backbone = {"backbone": params["backbone"]}
    tensors = original_names.to_torch(backbone, found.description["model"]["patch_size"])
    del tensors[_MASK_TOKEN]
    return {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}


def _without_layer_scale(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Multiplies the gains of LayerScale into the linear layers that they follow."""
    scaled = {name: tensor for name, tensor in tensors.items() if ".gamma_" not in name}
    for name, gains in tensors.items():
        block, _, number = name.partition(".gamma_")
        if number:
            layer = f"{block}.{'attn.proj' if number == '1' else 'mlp.fc2'}"
            scaled[f"{layer}.weight"] = gains[:, None] * scaled[f"{layer}.weight"]
            scaled[f"{layer}.bias"] = gains * scaled[f"{layer}.bias"]
    return scaled


def _write_folder(
    target: epath.Path,
    tensors: Mapping[str, np.ndarray],
    found: Found,
    text: str,
    configs: Mapping[str, Any],
) -> None:
    """Writes TARGET/model.safetensors, the card and JSON files."""
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    metadata = {"format": "pt", DESCRIPTION: as_json(found.description)}
    content = import_safetensors().numpy.save(tensors, metadata=metadata)
    target.parent.mkdir(parents=True, exist_ok=True)
    with renamed(target) as temporary:
        temporary.mkdir()
        (temporary / _MODEL).write_bytes(content)
        (temporary / CARD).write_text(text)
        for name, config in configs.items():
            (temporary / name).write_text(as_json(config))


def _reading(target: epath.Path) -> str:
    return f"""
        import safetensors.numpy

        tensors = safetensors.numpy.load_file({quoted(f"{target.name}/{_MODEL}")})
        """


def _timm_config(description: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    pretrained_cfg, remarks = _pretrained_cfg(description)
    model, size = description["model"], list(description["global_size"])
    name = _TIMM_NAMES.get(model["width"], "base")
    return {
        "architecture": f"vit_{name}_patch16_224",
        "num_classes": 0,
        "num_features": model["width"],
        "model_args": {
            "img_size": size,
            "patch_size": model["patch_size"],
            "in_chans": description["channels"],
            "embed_dim": model["width"],
            "depth": model["depth"],
            "num_heads": model["heads"],
            "mlp_ratio": model["mlp_ratio"],
            "init_values": model["layer_scale"] or None,
            **({"dynamic_img_size": True} if pretrained_cfg["input_size"][1:] != size else {}),
        },
        "pretrained_cfg": pretrained_cfg,
    }, remarks


def _pretrained_cfg(description: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    """Returns what timm is to know of images, and remarks on pixels that it makes otherwise."""
    view = described_view(description, "the model")
    settings, remarks = to_timm(view)
    return settings | {
        "input_size": [description["channels"], *view.size],
        "fixed_input_size": True,
        "mean": list(description["mean"]),
        "std": list(description["std"]),
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }, remarks


def _hf_config(description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    model, size = description["model"], list(description["global_size"])
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": model["width"],
        "num_hidden_layers": model["depth"],
        "num_attention_heads": model["heads"],
        "intermediate_size": len(tensors["encoder.layer.0.intermediate.dense.bias"]),
        "hidden_act": "gelu",
        "layer_norm_eps": model["norm_eps"],
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": model["patch_size"],
        "num_channels": description["channels"],
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "torch_dtype": "float32",
    }
