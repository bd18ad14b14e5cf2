"""ObjectNet made small, as its archive has it: three objects, two of which are classes."""

import json

import numpy as np
from PIL import Image

# Folder, its label, ImageNet's names for it, and the colour of its images.
OBJECTS = {
    "air_freshener": ("Air freshener", None, (200, 200, 200)),
    "alarm_clock": ("Alarm clock", "analog clock; digital clock, watch", (30, 60, 220)),
    "wheel": ("Wheel", "car wheel", (220, 40, 40)),
}
LINES = ["car wheel", "digital clock, watch", "analog clock"]  # in an order of their own
CLASSES = {"0": 1, "1": 2, "2": 0}  # blue, green and red: of each, its line


def write_objectnet(root):
    """Writes it, with a red border around all images, and returns its folder."""
    (root / "mappings").mkdir(parents=True)
    for name, content in {
        "folder_to_objectnet_label.json": {folder: row[0] for folder, row in OBJECTS.items()},
        "objectnet_to_imagenet_1k.json": {row[0]: row[1] for row in OBJECTS.values() if row[1]},
        "pytorch_to_imagenet_2012_id.json": CLASSES,
    }.items():
        (root / "mappings" / name).write_text(json.dumps(content))
    (root / "mappings/imagenet_to_label_2012_v2").write_text("\n".join(LINES) + "\n")
    for folder, (_, _, color) in OBJECTS.items():
        (root / "images" / folder).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((20, 24, 3), (255, 0, 0), np.uint8)
            pixels[2:-2, 2:-2] = np.array(color) + number
            Image.fromarray(pixels).save(root / "images" / folder / f"{number}.png")
    return root
