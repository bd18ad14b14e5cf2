"""Records what timm and transformers make of pictures of noise: tests/data/foreign_views.json.

    python tests/foreign_views.py > tests/data/foreign_views.json

It needs both libraries, as of the extra `interop`, and torchvision.
"""

import json
import tempfile

import numpy as np
from PIL import Image

SIZES = ((64, 85), (85, 64), (37, 41), (48, 48), (20, 90), (12, 14))
PLACES = ((0, 0), (0, -1), (-1, 0), (-1, -1), (3, 5), (7, 2), (9, 9), (10, 4))
UNIT = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
TIMM = {
    "center": {"input_size": [3, 16, 16], "crop_pct": 0.875},
    "defaults": {"input_size": [3, 16, 16]},
    "all of it, bilinear": {
        "input_size": [3, 16, 16],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    },
    "lanczos": {"input_size": [3, 16, 16], "crop_pct": 0.7, "interpolation": "lanczos"},
    "squash": {"input_size": [3, 16, 16], "crop_pct": 1.0, "crop_mode": "squash"},
    "squash and cut": {"input_size": [3, 16, 24], "crop_pct": 0.9, "crop_mode": "squash"},
    "not square": {"input_size": [3, 16, 32], "crop_pct": 32 / 36},
    "high": {"input_size": [3, 24, 16], "crop_pct": 0.81},
}
HUGGING_FACE = {
    "ViT": {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}},
    "ViT, old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 16, "resample": 3},
    "ViT, not square": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 16, "width": 24},
        "resample": 1,
    },
    "Bit": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 24},
        "crop_size": {"height": 16, "width": 16},
    },
    "Bit, one number": {"image_processor_type": "BitImageProcessor", "size": 24, "crop_size": 16},
    "Bit, not square": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 30},
        "crop_size": {"height": 16, "width": 28},
        "resample": 2,
    },
    "DeiT": {
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 24, "width": 24},
        "crop_size": {"height": 16, "width": 16},
    },
    "CLIP": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
        "do_center_crop": True,
    },
}


def noise(height: int, width: int) -> Image.Image:
    """Returns a picture of noise, the same one everywhere."""
    numbers = np.arange(height * width * 3, dtype=np.uint64)
    levels = (numbers * np.uint64(2654435761) >> np.uint64(9)) % np.uint64(256)
    return Image.fromarray(levels.astype(np.uint8).reshape(height, width, 3))


def pixels_of_timm(settings: dict, image: Image.Image) -> np.ndarray:
    """Returns [H, W, 3] uint8, what timm makes of an image."""
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=settings | UNIT)
    normalized = timm.data.create_transform(**config, is_training=False)(image)
    return _levels(normalized.numpy())


def pixels_of_transformers(folder: str, image: Image.Image) -> np.ndarray:
    """Returns [H, W, 3] uint8, what transformers makes of an image, with Pillow."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return _levels(processor(image, return_tensors="np")["pixel_values"][0])


def _levels(normalized: np.ndarray) -> np.ndarray:
    return np.round((normalized * 0.5 + 0.5) * 255).astype(np.uint8).transpose(1, 2, 0)


def _of_folder(settings: dict, image: Image.Image) -> np.ndarray:
    content = settings | {"image_mean": UNIT["mean"], "image_std": UNIT["std"]}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in (("preprocessor_config", content), ("config", {"model_type": "vit"})):
            with open(f"{folder}/{name}.json", "w") as file:
                json.dump(config, file)
        return pixels_of_transformers(folder, image)


def _record(make, settings: dict) -> dict:
    pictures = []
    for height, width in SIZES:
        pixels = make(settings, noise(height, width))
        shown = [pixels[place].tolist() for place in PLACES]
        pictures.append({"picture": [height, width], "size": pixels.shape[:2], "pixels": shown})
    return {"settings": settings, "pictures": pictures}


def main() -> None:
    """Prints the file."""
    import PIL
    import timm
    import torchvision
    import transformers

    versions = {m.__name__: m.__version__ for m in (PIL, timm, torchvision, transformers)}
    cases = {"timm": {}, "transformers": {}}
    for name, settings in TIMM.items():
        cases["timm"][name] = _record(pixels_of_timm, settings)
    for name, settings in HUGGING_FACE.items():
        cases["transformers"][name] = _record(_of_folder, settings)
    provenance = "tests/foreign_views.py, with these versions"
    print(json.dumps({"by": provenance, "versions": versions, **cases}))


if __name__ == "__main__":
    main()
