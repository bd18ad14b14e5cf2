"""A ViT of DINOv2 or DINOv3 applied, by its own names or by those of timm or transformers.

A file of the first kind holds `params/NAME`, and for each SIZE (HEIGHTxWIDTH) `SIZE/image`
[B, 3, H, W], `SIZE/mask` [B, h, w] and what came out, of DINOv2 below
`SIZE/offset=O,antialias=A/`, for the resampling of positions: `class`, `registers`, `patches`
[B, N, D], `prenorm`, all tokens before the last norm, `positions` [1 + N, D]; of DINOv3 also `sin`
and `cos` [N, head_dim]; `masked/` with the mask, `block/I/` of that block, normalised
(`raw_patches` are not); `rope_fp32/` and `rope_bf16/` with rotations in these. `pair/global/` and
`pair/local/` are outputs of training, of the first size's images with the mask, and of
`pair/local_image`, with the norm of local views.

One of the second kind holds `MODEL/params/NAME`, for some models `MODEL/config`, and
`MODEL/SIZE/image`, `tokens` [B, 1 + R + N, D], and `pooled`, the class token.
"""

import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.config.flat import section
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.build import Backbone, build_backbone
from ibot_jax.models.layer_norm import Norm
from ibot_jax.models.parameters import Params
from ibot_jax.models.positions import resample_positions
from ibot_jax.models.rope import Rope
from ibot_jax.models.tokens import Tokens
from ibot_jax.tools.replaying.recording import Deviation, Deviations, Kind, Recording, difference
from ibot_jax.weights.foreign.architecture import Known
from ibot_jax.weights.foreign.convert import take
from ibot_jax.weights.foreign.files.contents import Contents

# Of what was recorded in float64, and in float32; of what goes through float32 there, and through
# bfloat16, where a number at the edge may be rounded to the other side.
TOLERANCES = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-6}
FLOAT32, BFLOAT16 = 1e-6, 1e-3

EPSILONS = {"layernorm": 1e-6, "layernormbf16": 1e-5}
_LAYOUTS = ("vit_small_", "Dinov2", "DINOv3")
_KNOWN = {"seed", "image_size", "patch_size", "embed_dim", "depth", "num_heads", "registers", "ffn"}
_KNOWN |= {"layer_scale", "sizes", "ffn_ratio", "qkv_bias", "mask_k_bias", "norm", "untie_patch"}
_KNOWN |= {"untie_local", "base", "coords"}


def _takes(recording: Recording) -> bool:
    return recording.has("params/") and "registers" in recording.settings


def _takes_layouts(recording: Recording) -> bool:
    return any(recording.has(prefix) for prefix in _LAYOUTS)


def _unknown(recording: Recording) -> list[str]:
    settings = recording.settings.items()
    return [f"{name}={value!r}" for name, value in settings if name not in _KNOWN]


def _replay(recording: Recording) -> Deviations:
    settings = recording.settings
    facts = {"heads": recording.setting("num_heads"), "size": [recording.setting("image_size")] * 2}
    if settings.get("norm", "layernorm") not in EPSILONS:
        raise recording.problem(f"norm={settings['norm']!r} is not there yet")
    facts["epsilon"] = EPSILONS[settings.get("norm", "layernorm")]
    model, params = _model(recording.below("params/"), facts, recording)
    model = model.clone(rope_coordinates=settings.get("coords", "separate"))
    for size in sorted(name.partition("/")[0] for name in recording.names if "/image" in name):
        theirs = recording.below(f"{size}/")
        images, mask = theirs.pop("image"), theirs.pop("mask", None)
        resamplings = sorted({name.partition("/")[0] for name in theirs if "offset=" in name})
        for way in resamplings or [""]:
            chosen = model
            if way:
                offset, antialias = (part.partition("=")[2] for part in way.split(","))
                chosen = model.clone(pos_offset=float(offset), pos_antialias=antialias == "True")
            names = [name for name in theirs if name.startswith(way)]
            yield from _compare(
                recording,
                f"{size} {way}".strip(),
                {name.removeprefix(way).lstrip("/"): theirs[name] for name in names},
                chosen,
                params,
                images,
                mask,
            )
    if "pair/local_image" in recording:
        first = f"{settings['image_size']}x{settings['image_size']}"
        theirs = recording.below("pair/")
        local = _apply(model, params, _channels_last(theirs.pop("local_image")), local=True)
        images = _channels_last(recording[f"{first}/image"])
        whole = _apply(model, params, images, masks=jnp.asarray(recording[f"{first}/mask"]))
        ours = _named("local/", local) | _named("global/", whole)
        for name, array in theirs.items():
            yield _deviation(recording, f"pair {name}", ours.get(name), array)


def _compare(
    recording: Recording,
    where: str,
    theirs: Mapping[str, np.ndarray],
    model: Backbone,
    params: Params,
    images: np.ndarray,
    mask: np.ndarray | None,
) -> Deviations:
    """Compares the outputs of one size, with one way of resampling positions."""
    images = _channels_last(images)
    outputs = _apply(model, params, images)
    ours = _named("", outputs) | _positions(model, params, images.shape[1:3])
    if any(name.startswith("masked/") for name in theirs):
        ours |= _named("masked/", _apply(model, params, images, masks=jnp.asarray(mask)))
    for number in range(model.depth):
        if any(name.startswith(f"block/{number}/") for name in theirs):
            ours |= _named(f"block/{number}/", _apply(model, params, images, block=number))
    for name in ("rope_fp32", "rope_bf16"):
        if any(other.startswith(f"{name}/") for other in theirs):
            dtype = "bfloat16" if name == "rope_bf16" else "float32"
            ours |= _named(f"{name}/", _apply(model.clone(rope_dtype=dtype), params, images))
    for name, array in theirs.items():
        yield _deviation(recording, f"{where} {name}", ours.get(name), array)


def _replay_layouts(recording: Recording) -> Deviations:
    names = sorted({name.partition("/")[0] for name in recording.names})
    configs = {
        name: json.loads(str(recording[f"{name}/config"]))
        for name in names
        if f"{name}/config" in recording
    }
    usual = next(iter(configs.values()), {})  # those of timm are as large
    for name in names:
        theirs = recording.below(f"{name}/")
        config = configs.get(name, usual)
        facts = {"heads": config.get("num_attention_heads")}
        tensors = {n.removeprefix("params/"): x for n, x in theirs.items() if "params/" in n}
        model, params = _model(tensors, facts, recording)
        for size in sorted(other.removesuffix("/image") for other in theirs if "/image" in other):
            tokens, _ = _apply(model, params, _channels_last(theirs[f"{size}/image"]))
            for kind, ours in (("tokens", tokens.sequence), ("pooled", tokens.cls)):
                found = difference(np.asarray(ours), theirs[f"{size}/{kind}"])
                yield Deviation(f"{name} {size} {kind}", found, FLOAT32)


def _model(
    tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any], recording: Recording
) -> tuple[Backbone, Params]:
    """Converts recorded tensors as `convert` does a file's; for float64."""
    known = Known(heads=facts.get("heads"))
    contents = Contents("recording", {"": tensors}, {}, dict(facts))
    taken = take(contents, "", recording.path, known, head=False)
    model, data = (section(taken.config, name) for name in ("model", "data"))
    backbone = build_backbone(model, data.global_size, "float64")
    return backbone, jax.tree.map(np.float64, taken.params["backbone"])


def _channels_last(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1).astype(np.float64)


def _apply(
    model: Backbone, params: Params, images: np.ndarray, block: int | None = None, **options: Any
) -> tuple[Tokens, jax.Array]:
    """Returns the output tokens, of a block if that is asked for, and what the last norm meets."""

    @jax.jit
    def apply(params, images):
        before = {}

        def keep(call, arguments, named, context):
            if isinstance(context.module, Norm) and context.method_name == "__call__":
                before[context.module.name] = arguments[0]
            return call(*arguments, **named)

        with nn.intercept_methods(keep):
            if block is None:
                tokens = model.apply({"params": params}, images, **options)
            else:
                (tokens,) = model.apply({"params": params}, images, [block], method="layers")
        patches = before.pop("norm")  # all tokens, but where the others have a norm of their own
        return tokens, jnp.concatenate([*before.values(), patches], axis=1)

    return apply(params, images)


def _named(prefix: str, outputs: tuple[Tokens, jax.Array]) -> dict[str, np.ndarray]:
    tokens, before = outputs
    patches = tokens.patches
    found = {
        "class": tokens.cls,
        "registers": tokens.registers,
        "patches": patches.reshape(len(patches), -1, patches.shape[-1]),
        "prenorm": before,
        "raw_patches": before[:, 1 + tokens.registers.shape[1] :],
    }
    return {f"{prefix}{name}": np.asarray(array) for name, array in found.items()}


def _positions(model: Backbone, params: Params, size: tuple[int, int]) -> dict[str, np.ndarray]:
    grid = geometry_of(model).grid(size)
    if model.positions == "learned":
        ways = (model.pos_offset, model.pos_antialias)
        return {"positions": resample_positions(params["pos_embed"], model.grid, grid, *ways)[0]}
    rope = Rope(model.width // model.heads, model.rope_base, (), model.rope_coordinates)
    cosines, sines = rope.table(grid, jnp.float64)
    return {"cos": np.asarray(cosines), "sin": np.asarray(sines)}


def _deviation(
    recording: Recording, quantity: str, ours: np.ndarray | None, theirs: np.ndarray
) -> Deviation:
    if ours is None:
        raise recording.problem(f"{quantity} is nothing that a backbone gives here")
    tolerance = TOLERANCES.get(theirs.dtype, max(TOLERANCES.values()))
    if "rope_fp32" in quantity:
        tolerance = FLOAT32
    if "rope_bf16" in quantity:
        tolerance = BFLOAT16
    return Deviation(quantity, difference(np.asarray(ours), theirs), tolerance)


KIND = Kind("a ViT of DINOv2 or DINOv3, applied", _takes, _replay, _unknown)
LAYOUTS = Kind("models in the layouts of timm and transformers", _takes_layouts, _replay_layouts)
