"""Writes models as other projects want them.

    pth         one file, PyTorch's format and the names of the original, DINOv2 or DINOv3
    timm        a folder that timm.create_model("local-dir:FOLDER", pretrained=True) reads
    hf          a folder that transformers' AutoModel.from_pretrained(FOLDER) reads
    checkpoint  a folder of student, teacher and centers, for --config.init_from

This project's own description of the model goes along, where `contents` finds it again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ibot_jax.config.section import Section
from ibot_jax.files.atomic import renamed, writing
from ibot_jax.files.json_files import as_json
from ibot_jax.weights.deferred import Array
from ibot_jax.weights.description import described_model, described_view
from ibot_jax.weights.foreign import dialects, original_names, swin, vit
from ibot_jax.weights.foreign.files.contents import DESCRIPTION
from ibot_jax.weights.foreign.files.torch_writer import write_torch
from ibot_jax.weights.foreign.preprocessing import to_transformers
from ibot_jax.weights.foreign.read import Found
from ibot_jax.weights.foreign.write_configs import (
    refuse,
    timm_config,
    timm_pretrained_cfg,
    transformers_config,
)
from ibot_jax.weights.formats import CONFIG
from ibot_jax.weights.hashes import flat_tensors
from ibot_jax.weights.quoting import quoted
from ibot_jax.weights.write import CARD, save_safetensors, write_items, written

MakeCard = Callable[..., str]  # `card.make_card` with all but what depends on the format
_MASK_TOKEN = "masked_embed"
_MODEL, _PREPROCESSOR = "model.safetensors", "preprocessor_config.json"
FOLDERS = {
    "timm": (_MODEL, CONFIG, CARD),
    "hf": (_MODEL, CONFIG, _PREPROCESSOR, CARD),
    "checkpoint": ("student", "teacher", "centers", CONFIG, CARD),
}


def write_pth(target: epath.Path, found: Found, make_card: MakeCard) -> Sequence[str]:
    """Writes what PyTorch's own programs and torch.load(..., weights_only=True) read.

    Returns:
      Remarks on what they make otherwise.
    """
    ((who, params),) = found.params.items()
    model = described_model(found.description)
    dialect, remarks = dialects.torch_dialect(model), ()
    tensors = original_names.to_torch(params, model.patch_size)
    if model.arch == "vit":
        refuse(vit.otherwise_in_torch(model), "pth", "npz")
        if model.qkv_bias == "masked_key" and dialect is not dialects.DINOV3:
            tensors = vit.without_key_bias(tensors)
        local = {n.removeprefix("backbone."): x for n, x in tensors.items() if _is_backbone(n)}
        renamed = {f"backbone.{n}": x for n, x in dialects.to_dialect(dialect, local).items()}
        others = {name: tensor for name, tensor in tensors.items() if not _is_backbone(name)}
        tensors = renamed | vit.buffers(model, "backbone.") | others
        remarks = _resampled_otherwise(found, dialect)
    prefix = "module." if who == "student" else ""  # as torch's DistributedDataParallel has it
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
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
            model.load_state_dict(tensors, strict=False)  # a {model.arch}_* of {dialect.name}
            """,
        library="pytorch",
        remarks=remarks,
    )
    with written(target, text) as file:
        write_torch(file, {who: tensors, DESCRIPTION: as_json(found.description)})
    return remarks


def _is_backbone(name: str) -> bool:
    return name.startswith("backbone.")


def write_timm(target: epath.Path, found: Found, make_card: MakeCard) -> Sequence[str]:
    """Writes a folder for timm; the mask token stays behind, for timm's models have none.

    Returns:
      Remarks on what timm makes otherwise.
    """
    config, remarks = timm_config(found.description)
    model = described_model(found.description)
    dialect = dialects.timm_dialect(model)
    tensors = _backbone(found)
    del tensors[_MASK_TOKEN]
    tensors = dialects.to_dialect(dialect, tensors)
    shape = "[1, h, w, D]" if model.arch == "swin" else "[1, 1 + R + N, D]"
    imports, norms = "import timm", ""
    if model.norm_eps != dialect.norm_eps:
        imports = "import functools\n\n            import timm\n            import torch"
        kind = "timm.layers.RmsNorm" if model.norm_kind == "rms" else "torch.nn.LayerNorm"
        norm = f"functools.partial({kind}, eps={model.norm_eps})"
        norms = f", norm_layer={norm}"
        remarks = (*remarks, f"its models have other norms unless told norm_layer={norm}")
    remarks = (*remarks, *_resampled_otherwise(found, dialect), *_left_behind(model))
    text = make_card(
        tensors=tensors,
        reading=_reading(target),
        usage=f"""
            {imports}

            folder = {quoted(f"local-dir:{target.name}")}
            model = timm.create_model(folder, pretrained=True{norms}).eval()
            transform = timm.data.create_transform(
                **timm.data.resolve_model_data_config(model), is_training=False
            )
            images = transform(image)[None]  # from a picture of Pillow's to [1, C, H, W]
            tokens = model.forward_features(images)  # {shape}
            """,
        library="timm",
        remarks=remarks,
    )
    _write_folder(target, tensors, found, text, {CONFIG: config})
    return remarks


def write_hf(target: epath.Path, found: Found, make_card: MakeCard) -> Sequence[str]:
    """Writes a folder for transformers: a ViT, without its pooler, DINOv2, DINOv3 or Swin.

    Returns:
      Remarks on what its image processor and its model make otherwise.
    """
    description = found.description
    model, tensors = described_model(description), _backbone(found)
    rows, columns = description["patch_grid"]
    if rows != columns and model.arch == "vit" and model.positions == "learned":
        # DINOv2 has positions of square grids alone there; a ViTModel has no LayerScale.
        if model.registers or model.ffn == "swiglu":
            refuse(f"DINOv2 there has a square grid of patches, not {rows}x{columns}", "hf")
        tensors, model.layer_scale = vit.without_gains(tensors), 0.0
    config = transformers_config(model, description)
    view = described_view(description, target.name)
    preprocessor, remarks = to_transformers(view, description["mean"], description["std"])
    dialect, norms = dialects.transformers_dialect(model), ""
    (name,) = config["architectures"]
    pooler = ""
    if name in ("ViTModel", "SwinModel"):
        del tensors[_MASK_TOKEN]
        pooler = ", add_pooling_layer=False"
    elif model.arch == "vit":
        tensors = vit.with_gains(tensors)
    if name == "DINOv3ViTModel":  # which has an axis more
        tensors[_MASK_TOKEN] = np.asarray(tensors[_MASK_TOKEN])[None]
        if not model.registers:
            tensors["register_tokens"] = np.zeros((1, 0, model.width), np.float32)
    if model.arch == "swin" and model.norm_eps != dialect.norm_eps:
        norms = f"""
            for module in model.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = {model.norm_eps}"""
        remarks += (
            f"its models have {dialect.norm_eps:g} for LayerNorm's epsilon in some norms "
            f"whatever config.json says, here {model.norm_eps:g}: the card tells how to set it",
        )
    if name == "ViTModel" and list(view.size) != list(description["global_size"]):
        remarks += ("its model takes images of this size with interpolate_pos_encoding=True",)
    remarks = (*remarks, *_resampled_otherwise(found, dialect), *_left_behind(model))
    tensors = dialects.to_dialect(dialect, tensors)
    text = make_card(
        tensors=tensors,
        reading=_reading(target),
        usage=f"""
            {"import torch" if norms else ""}
            from transformers import AutoImageProcessor, {name}

            processor = AutoImageProcessor.from_pretrained({quoted(target.name)})
            model = {name}.from_pretrained({quoted(target.name)}{pooler}){norms}
            tokens = model(**processor(image, return_tensors="pt")).last_hidden_state
            """,
        library="transformers",
        remarks=remarks,
    )
    if "size" not in preprocessor:  # where its class looks for timm's settings
        config |= preprocessor | {"pretrained_cfg": timm_pretrained_cfg(description)[0]}
    configs = {CONFIG: config, _PREPROCESSOR: preprocessor}
    _write_folder(target, tensors, found, text, configs)
    return remarks


def _resampled_otherwise(found: Found, dialect: dialects.Dialect) -> Sequence[str]:
    """Returns a remark if positions become others than here on images of another size."""
    model = described_model(found.description)
    own = (model.pos_offset, model.pos_antialias)
    if model.arch != "vit" or not dialect.resampling or own == dialect.resampling:
        return ()
    (height, width), words = found.description["global_size"], []
    for offset, antialias in (dialect.resampling, own):
        words.append(f"by {offset:g} of a patch more, {'' if antialias else 'not '}antialiased")
    return (
        f"on images of another size than {height} x {width} it resamples positions {words[0]}; "
        f"here {words[1]}",
    )


def _left_behind(model: Section) -> Sequence[str]:
    if model.arch == "vit" and model.untie_local_norm:
        return ("the norm of local views stays behind, which is of training alone",)
    return ()


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


def _backbone(found: Found) -> dict[str, Array]:
    """Returns what features are of, by the original's names, and the mask token."""
    (params,) = found.params.values()
    model = described_model(found.description)
    tensors = original_names.to_torch({"backbone": params["backbone"]}, model.patch_size)
    tensors = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if not swin.is_buffer(name) and ".local_cls_norm." not in name
    }
    masked = model.arch == "vit" and model.qkv_bias == "masked_key"
    return vit.without_key_bias(tensors) if masked else tensors


def _write_folder(
    target: epath.Path,
    tensors: Mapping[str, Array],
    found: Found,
    text: str,
    configs: Mapping[str, Any],
) -> None:
    """Writes TARGET/model.safetensors, the card and JSON files."""
    metadata = {"format": "pt", DESCRIPTION: as_json(found.description)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with renamed(target) as temporary:
        temporary.mkdir()
        with writing(temporary / _MODEL) as file:
            save_safetensors(file, tensors, metadata)
        (temporary / CARD).write_text(text)
        for name, config in configs.items():
            (temporary / name).write_text(as_json(config))


def _reading(target: epath.Path) -> str:
    return f"""
        import safetensors.numpy

        tensors = safetensors.numpy.load_file({quoted(f"{target.name}/{_MODEL}")})
        """
