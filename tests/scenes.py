"""Small data sets of images, in the layouts of those that evaluations read."""

import json

import numpy as np
from PIL import Image

IGNORED = 255
COLORS = np.array([[40, 40, 40], [220, 30, 30], [30, 60, 220]], np.uint8)
SHAPE = (32, 48)


def scene(rng):
    """A red and a blue rectangle, of whole patches of 4 pixels, on grey: pixels and classes."""
    truth = np.zeros(SHAPE, np.uint8)
    for label, left in ((1, 0), (2, 24)):
        top, left = 4 * rng.integers(0, 4), left + 4 * rng.integers(0, 3)
        truth[top : top + 16, left : left + 12] = label
    return COLORS[truth], truth


def write_classes(root):
    """Writes images of one colour each, 30 to train and 13 to test, which hardly tell 3 classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 13)):
        for index in range(count):
            folder = root / split / "abc"[index % 3]
            folder.mkdir(parents=True, exist_ok=True)
            color = 128 + 40 * (np.arange(3) == index % 3) + rng.normal(0, 40, 3)
            pixels = color + rng.integers(-10, 11, (20, 22, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / f"{index:02}.png")
    return root


def write_voc(root):
    """Writes 11 scenes to train with and 6 to test, and returns the folder."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 11), ("val", 6)):
        names = [f"2007_{part}{number}" for number in range(count)]
        (root / f"ImageSets/Segmentation/{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            pixels, truth = scene(rng)
            truth[:2] = IGNORED
            Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg", quality=95, subsampling=0)
            annotation = Image.fromarray(truth)
            annotation.putpalette([value for value in range(256) for _ in range(3)])
            annotation.save(root / f"SegmentationClass/{name}.png")
    return root


def write_ade20k(root):
    """Writes 9 scenes to train with and 3 to test, and returns the folder."""
    rng = np.random.default_rng(0)
    for part, count in (("training", 9), ("validation", 3)):
        for folder in ("images", "annotations"):
            (root / folder / part).mkdir(parents=True)
        for number in range(count):
            pixels, truth = scene(rng)
            name = f"{part}/ADE_{number:08}"
            Image.fromarray(pixels).save(root / f"images/{name}.jpg", quality=95, subsampling=0)
            Image.fromarray(truth + np.uint8(1)).save(root / f"annotations/{name}.png")
    return root


def write_copies(root):
    """Writes eight images of one colour each, one or two paler copies of each, and 40 others."""
    rng = np.random.default_rng(0)
    colors = rng.permutation([(r, g, b) for r in (30, 220) for g in (30, 220) for b in (30, 220)])
    for folder in ("original", "strong", "others"):
        (root / folder).mkdir(parents=True)

    def save(path, color, size=(20, 30)):
        pixels = color + rng.integers(-6, 7, (*size, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(root / path, quality=95, subsampling=0)

    for number, color in enumerate(colors):
        save(f"original/20{number:02}00.jpg", color)
        for copy in range(1 + number % 2):
            save(f"strong/20{number:02}0{copy + 1}.jpg", color * 0.9 + 10, (24, 18))
    for number in range(40):
        save(f"others/{number}.png", rng.integers(0, 256, 3))
    return root


def write_spair(root, pairs):
    """Writes pairs of (category, source, target, source points, target points), images by name."""
    for folder in ("Layout/large", "PairAnnotation/test"):
        (root / folder).mkdir(parents=True)
    names = []
    for number, (category, source, target, points, others) in enumerate(pairs):
        folder = root / "JPEGImages" / category
        folder.mkdir(parents=True, exist_ok=True)
        about = {"category": category, "src_kps": points, "trg_kps": others}
        for side, (name, pixels) in (("src", source), ("trg", target)):
            Image.fromarray(pixels).save(folder / name)
            about[f"{side}_imname"] = name
            about[f"{side}_imsize"] = [pixels.shape[1], pixels.shape[0], 3]
            about[f"{side}_bndbox"] = [2, 2, 30, 22]
        names.append(f"{number:06}-{source[0][:-4]}-{target[0][:-4]}:{category}")
        (root / f"PairAnnotation/test/{names[-1]}.json").write_text(json.dumps(about))
    (root / "Layout/large/test.txt").write_text("\n".join(names) + "\n")
    return root


def pattern(seed, height=32, width=32):
    """Squares of 4 x 4 pixels, each of a colour of its own."""
    colors = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return colors.repeat(4, axis=0).repeat(4, axis=1)


# Of keypoints that stay clear of what the move of `write_patterns` brings in.
POINTS = [[6, 6], [9, 13], [18, 10], [14, 20]]


def write_patterns(root):
    """Writes twelve pairs of SPair-71k, 2 to 4 points each: the second image is the first moved."""
    right, down = 8, 4  # pixels
    moved = [[x + right, y + down] for x, y in POINTS]
    pairs = []
    for number in range(12):
        pixels = pattern(number)
        source = f"a{number}.png", pixels
        target = f"b{number}.png", np.roll(pixels, (down, right), axis=(0, 1))
        of_pair = POINTS[: 2 + number % 3], moved[: 2 + number % 3]
        pairs.append(("cat" if number % 3 else "bus", source, target, *of_pair))
    return write_spair(root, pairs)
