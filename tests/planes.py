"""Images of two planes, as grey as they are far away, in the layouts of depth data."""

import numpy as np
from PIL import Image

from ibot_jax.evaluate.benchmarks.depth.data import LAYOUTS, SUN_RGBD

SIZE = (24, 32)


def write_planes(root, layout="nyu", size=SIZE, train=10, test=5):
    """Writes images of two planes, grey by their distance, and returns the folder."""
    described, rng = LAYOUTS[layout], np.random.default_rng(0)
    for listing, count in zip(described.lists, (train, test), strict=True):
        lines = []
        for number in range(count):
            metres = np.full(size, rng.uniform(1, 9), np.float32)
            metres[:, 16:] = rng.uniform(1, 9)
            name = f"room_{listing[:6]}/{number}.png"
            for folder, pixels in (
                (described.images, np.repeat((25 * metres).astype(np.uint8)[..., None], 3, 2)),
                (described.depths, (described.unit * metres).astype(np.uint16)),
            ):
                kind = "rgb_" if pixels.ndim == 3 else "depth_"
                path = root / folder / name.replace("/", f"/{kind}")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            first, second = (name.replace("/", f"/{kind}") for kind in ("rgb_", "depth_"))
            lines.append(f"{first} {second} 518.8579")
        (root / listing).write_text("\n".join(lines) + "\n")
    return root


def write_sun_rgbd(root, sizes=((24, 32), (30, 36))):
    """Writes an image of two planes of each size, and returns the folder.

    The numbers in its depth files are millimetres, rotated by three bits to the left.
    """
    rng, lines = np.random.default_rng(1), []
    for number, size in enumerate(sizes):
        millimetres = np.full(size, 1000 * rng.uniform(1, 4), np.uint16)
        millimetres[:, 16:] = 1000 * rng.uniform(4, 8)
        numbers = (millimetres << 3) | (millimetres >> 13)
        pixels = np.repeat((millimetres // 40).astype(np.uint8)[..., None], 3, 2)
        names = [f"SUNRGBD/kv1/{number}/{name}" for name in ("image/0.png", "depth/0.png")]
        for name, image in zip(names, (pixels, numbers), strict=True):
            (root / name).parent.mkdir(parents=True)
            Image.fromarray(image).save(root / name)
        lines.append(" ".join(names))
    (root / SUN_RGBD.lists[0]).write_text("\n".join(lines) + "\n")
    return root
