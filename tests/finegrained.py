"""The twelve fine-grained sets, made small, each as its archives have it.

Three classes, whose images are red, green and blue; in each split as many of one as of another.
"""

import pickle

import numpy as np
import scipy.io
from PIL import Image

COLORS = np.array([(220, 40, 40), (40, 200, 50), (30, 60, 220)])
TRAIN, VAL, TEST = 12, 6, 9  # images of all classes together


def picture(label, number, side=16):
    """Returns pixels [side, side, 3] uint8 of a class; a seed of its own makes each different."""
    rng = np.random.default_rng([label, number])
    noisy = COLORS[label] + rng.integers(-30, 31, (side, side, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def save(path, label, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(label, number)).save(path, "PNG")  # whatever its name ends in


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def numbered(*counts):
    """Yields for each split (number, label) of its images; no number comes twice."""
    start = 0
    for count in counts:
        yield [(number, number % 3) for number in range(start, start + count)]
        start += count


def food101(data):
    root, names = data / "food-101", ["apple_pie", "sushi", "waffles"]
    write(root / "meta/classes.txt", names)
    for split, images in zip(("train", "test"), numbered(TRAIN, TEST), strict=True):
        lines = [f"{names[label]}/{number}" for number, label in images]
        write(root / f"meta/{split}.txt", lines)
        for line, (number, label) in zip(lines, images, strict=True):
            save(root / f"images/{line}.jpg", label, number)


def cifar(data, folder, files, meta, labels, names):
    root = data / folder
    root.mkdir(parents=True)
    (root / meta[0]).write_bytes(pickle.dumps({meta[1]: names}, 2))
    for file, images in zip(files, numbered(*([3] * (len(files) - 1)), TEST), strict=True):
        pixels = np.stack([picture(label, number, 32) for number, label in images])
        content = {"data": pixels.transpose(0, 3, 1, 2).reshape(len(images), -1)}
        content[labels] = [label for _, label in images]
        (root / file).write_bytes(pickle.dumps(content, 2))


def cifar10(data):
    files = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    names = ["airplane", "automobile", "bird"]
    cifar(data, "cifar-10-batches-py", files, ("batches.meta", "label_names"), "labels", names)


def cifar100(data):
    meta, names = ("meta", "fine_label_names"), ["apple", "bear", "cloud"]
    cifar(data, "cifar-100-python", ["train", "test"], meta, "fine_labels", names)


def sun397(data):
    root, names = data / "SUN397", ["/a/abbey", "/c/canyon", "/o/oast_house/outdoor"]
    write(root / "ClassName.txt", names)
    for name, images in zip(("Training", "Testing"), numbered(TRAIN, TEST), strict=True):
        write(root / f"{name}_01.txt", [f"{names[label]}/sun_{n}.jpg" for n, label in images])
        for number, label in images:
            save(root / f"{names[label][1:]}/sun_{number}.jpg", label, number)


def cars(data):
    root = data / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    names = np.array(["Audi A5", "BMW M3", "Fiat 500"], object)
    scipy.io.savemat(root / "devkit/cars_meta.mat", {"class_names": names})
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for (split, file), images in zip(files.items(), numbered(TRAIN, TEST), strict=True):
        found = np.zeros((1, len(images)), [("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
        for place, (number, label) in enumerate(images):
            found[0, place] = (1, label + 1, f"{number:05}.jpg")
            save(root / f"cars_{split}/{number:05}.jpg", label, number)
        scipy.io.savemat(root / file, {"annotations": found})


def aircraft(data):
    root, names = data / "fgvc-aircraft-2013b/data", ["707-320", "A300B4", "Cessna 172"]
    write(root / "variants.txt", names)
    for split, images in zip(("train", "val", "test"), numbered(TRAIN, VAL, TEST), strict=True):
        lines = [f"{number:07} {names[label]}" for number, label in images]
        write(root / f"images_variant_{split}.txt", lines)
        for number, label in images:
            save(root / f"images/{number:07}.jpg", label, number)


def voc2007(data):
    """The first image of each split is difficult for the class after its own."""
    root, names = data / "VOCdevkit/VOC2007", ["aeroplane", "cat", "dog"]
    for split, images in zip(("train", "val", "test"), numbered(TRAIN, VAL, TEST), strict=True):
        write(root / f"ImageSets/Main/{split}.txt", [f"{number:06}" for number, _ in images])
        for own, name in enumerate(names):
            shown = {True: " 1", False: "-1"}
            lines = [f"{number:06} {shown[label == own]}" for number, label in images]
            if own == (images[0][1] + 1) % 3:
                lines[0] = f"{images[0][0]:06}  0"
            write(root / f"ImageSets/Main/{name}_{split}.txt", lines)
        for number, label in images:
            save(root / f"JPEGImages/{number:06}.jpg", label, number)


def dtd(data):
    root, names = data / "dtd", ["banded", "dotted", "woven"]
    for split, images in zip(("train", "val", "test"), numbered(TRAIN, VAL, TEST), strict=True):
        lines = [f"{names[label]}/{names[label]}_{number:04}.jpg" for number, label in images]
        write(root / f"labels/{split}1.txt", lines)
        for line, (number, label) in zip(lines, images, strict=True):
            save(root / "images" / line, label, number)


def pets(data):
    root, names = data / "oxford-iiit-pet", ["Abyssinian", "Birman", "pug"]
    for split, images in zip(("trainval", "test"), numbered(TRAIN, TEST), strict=True):
        lines = [f"{names[label]}_{number} {label + 1} 1 1" for number, label in images]
        write(root / f"annotations/{split}.txt", ["#Image CLASS-ID SPECIES BREED ID", *lines])
        for number, label in images:
            save(root / f"images/{names[label]}_{number}.jpg", label, number)


def caltech101(data):
    for label, name in enumerate(["BACKGROUND_Google", "ant", "wrench"]):
        for number in range(33):
            path = data / f"caltech-101/101_ObjectCategories/{name}/image_{number + 1:04}.jpg"
            save(path, label, number)


def flowers102(data):
    root = data / "flowers-102"
    splits, labels = {}, []
    for name, images in zip(("trnid", "valid", "tstid"), numbered(TRAIN, VAL, TEST), strict=True):
        splits[name] = [[number + 1 for number, _ in images]]
        for number, label in images:
            labels.append(label + 1)
            save(root / f"jpg/image_{number + 1:05}.jpg", label, number)
    scipy.io.savemat(root / "setid.mat", splits)
    scipy.io.savemat(root / "imagelabels.mat", {"labels": [labels]})


def cub200(data):
    root, names = data / "CUB_200_2011", ["001.Albatross", "002.Auklet", "003.Wren"]
    write(root / "classes.txt", [f"{n} {name}" for n, name in enumerate(names, 1)])
    columns = [[], [], []]
    for training, images in zip((1, 0), numbered(TRAIN, TEST), strict=True):
        for number, label in images:
            name = f"{names[label]}/{number}.jpg"
            for column, value in zip(columns, (name, label + 1, training), strict=True):
                column.append(f"{number + 1} {value}")
            save(root / "images" / name, label, number)
    files = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    for file, lines in zip(files, columns, strict=True):
        write(root / file, lines)


WRITERS = {
    writer.__name__: writer
    for writer in (
        *(food101, cifar10, cifar100, sun397, cars, aircraft),
        *(voc2007, dtd, pets, caltech101, flowers102, cub200),
    )
}
