"""How images become a model's input, in the words of timm and of transformers, read and written.

timm          pretrained_cfg of config.json, for timm.data.create_transform
transformers  preprocessor_config.json, for AutoImageProcessor
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ibot_jax.data.draw.central import FILTERS, CentralView
from ibot_jax.errors import UserError

# What the classes of transformers do where their file does not say it: whether one number of `size`
# is the shorter side (else both), `size`, `crop_size` and `resample`.
_PROCESSORS = {
    "ViT": (False, 224, None, "bilinear"),
    "DINOv3ViT": (False, 224, None, "bilinear"),
    "DeiT": (False, 256, 224, "bicubic"),
    "Bit": (True, 224, 224, "bicubic"),
    "CLIP": (True, 224, 224, "bicubic"),
}
_TIMM_WRAPPER = "TimmWrapperImageProcessor"
_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
# Whatever else a file says is true changes pixels in a way that is not known here.
_KNOWN = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb"),
    *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
    "pretrained_cfg",
    *("return_tensors", "data_format", "input_data_format", "device", "disable_grouping"),
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a file says of images.

    Attributes:
      view: how they are resized and cut; None where that is not known.
      mean: of each channel, of pixels in [0, 1]; None where it is not said.
      std: the same.
      notes: what of it is not taken, for people.
    """

    view: CentralView | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    notes: tuple[str, ...] = ()


def from_timm(settings: Mapping[str, Any], path: str) -> Preprocessing:
    """Reads what `timm.data.resolve_data_config` reads, with its defaults.

    Args:
      settings: `pretrained_cfg`.
      path: of the file, for messages.

    Raises:
      UserError: if it makes no sense.
    """
    mean, std = settings.get("mean"), settings.get("std")
    if not settings.get("input_size"):
        return Preprocessing(None, mean, std)
    mode = settings.get("crop_mode") or "center"
    interpolation = settings.get("interpolation") or "bicubic"
    notes = []
    if mode not in ("center", "squash"):
        notes.append(f"{path} has crop_mode={mode!r}, which is not taken: 'center' is")
    if interpolation not in FILTERS:
        notes.append(f"{path} has interpolation={interpolation!r}, which is not taken: bicubic is")
        interpolation = "bicubic"
    try:
        _, *size = settings["input_size"]
        crop_pct = settings.get("crop_pct") or 0.875
        resize = tuple(math.floor(side / crop_pct) for side in size)
        fit = "squash" if mode == "squash" else "cover"
        view = CentralView(tuple(size), resize, fit, interpolation)
        return Preprocessing(_checked(view), mean, std, tuple(notes))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise UserError(f"{path} describes no preprocessing ({error}); mend it") from None


def to_timm(view: CentralView) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns what makes timm cut this view, and notes on what it cannot do."""
    notes = []
    crop_pct = _crop_pct(view.size, view.resize)
    if crop_pct is None:
        crop_pct = min(view.size) / min(view.resize)
        notes.append(
            f"timm has one share for both sides, and cannot resize to {view.resize[0]} x "
            f"{view.resize[1]} before a crop of {view.size[0]} x {view.size[1]}: other pixels"
        )
    if view.rounding != "even":
        notes.append(_offset_note("timm", "after"))
    settings = {
        "interpolation": view.interpolation,
        "crop_pct": crop_pct,
        "crop_mode": "squash" if view.fit == "squash" else "center",
    }
    return settings, tuple(notes)


def _crop_pct(size: tuple[int, int], resize: tuple[int, int]) -> float | None:
    """Returns the share p for which floor(size / p) is `resize` on both sides, if there is one."""
    sides = list(zip(size, resize, strict=True))
    low = max(side / (resized + 1) for side, resized in sides)  # p is above it
    high = min(side / resized for side, resized in sides)  # and at most this
    for share in (high, (low + high) / 2):
        if all(math.floor(side / share) == resized for side, resized in sides):
            return share
    return None


def from_transformers(settings: Mapping[str, Any], path: str) -> Preprocessing:
    """Reads a preprocessor_config.json.

    Args:
      settings: what it holds.
      path: of the file, for messages.

    Raises:
      UserError: if it makes no sense.
    """
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    name = next((kind.removesuffix(end) for end in _SUFFIXES if kind.endswith(end)), kind)
    if kind == _TIMM_WRAPPER:
        return from_timm(settings.get("pretrained_cfg", {}), path)
    notes = [
        f"{path} has {key}={value!r}, which is not taken"
        for key, value in settings.items()
        if key not in _KNOWN and not key.startswith("_") and value
    ]
    if name not in _PROCESSORS:
        notes.append(f"{path} is of {kind or 'no named kind'}; it is read as of ViTImageProcessor")
    if name == "DINOv3ViT":
        notes.append(f"{path} rounds no pixels after resizing, as here: they are within 1 of 255")
    try:
        mean, std = _of_unit_range(settings)
        view = _view(settings, *_PROCESSORS.get(name, _PROCESSORS["ViT"]))
        if view is None:
            notes.append(f"{path} resizes nothing; images are resized as without it")
        return Preprocessing(view and _checked(view), mean, std, tuple(notes))
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{path} describes no preprocessing ({error}); mend it") from None


def _view(
    settings: Mapping[str, Any], shorter: bool, size: int, crop_size: int | None, filter_: str
) -> CentralView | None:
    if not settings.get("do_resize", True):
        return None
    shorter = settings.get("default_to_square", not shorter) is False
    before = settings.get("size") or size
    if isinstance(before, int):
        before = {"shortest_edge": before} if shorter else {"height": before, "width": before}
    if "shortest_edge" in before:
        resize, fit = (before["shortest_edge"],) * 2, "cover"
    else:
        resize, fit = (before["height"], before["width"]), "squash"
    cut = resize
    if settings.get("do_center_crop", crop_size is not None):
        cut = settings.get("crop_size") or crop_size
        cut = (cut, cut) if isinstance(cut, int) else (cut["height"], cut["width"])
    elif fit == "cover":
        raise ValueError("images keep their shape, and a model here has one for all: no crop_size")
    resample = settings.get("resample", FILTERS[filter_])
    names = {filter_.value: name for name, filter_ in FILTERS.items()}
    return CentralView(cut, resize, fit, names[int(resample)], rounding="down")


def _of_unit_range(settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns mean and standard deviation of pixels in [0, 1], whatever range they are there."""
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not settings.get("do_normalize", True):
        mean, std = [0.0], [1.0]
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1
    if mean is None or std is None or math.isclose(255 * factor, 1):
        return mean, std
    return tuple([value / (255 * factor) for value in values] for values in (mean, std))


def to_transformers(
    view: CentralView, mean: Sequence[float], std: Sequence[float]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns a preprocessor_config.json that cuts this view, and notes on what it cannot do."""
    (high, wide), notes = view.resize, []
    if view.fit == "cover" and high != wide:
        # No class of transformers' own does that; timm's transform, told by config.json, does.
        return {"image_processor_type": _TIMM_WRAPPER}, (
            "its image processor needs timm, whose transform it calls",
        )
    if view.rounding != "down":
        notes.append(_offset_note("transformers", "before"))
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": len(mean) == 3,
        "do_resize": True,
        "size": {"height": high, "width": wide}
        if view.fit == "squash"
        else {"shortest_edge": high},
        "resample": int(FILTERS[view.interpolation]),
        "do_center_crop": True,
        "crop_size": {"height": view.size[0], "width": view.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }, tuple(notes)


def _offset_note(library: str, where: str) -> str:
    return (
        f"{library} rounds the middle of an image otherwise: where what the crop leaves over is 3, "
        f"7, 11, ... pixels, it begins one pixel {where} the crop here"
    )


def _checked(view: CentralView) -> CentralView:
    return CentralView.from_json(view.to_json())
