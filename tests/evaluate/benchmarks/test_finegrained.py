"""The fine-grained sets in their own layouts: which image is which class, and what is refused."""

import pickle
import shutil

import finegrained
import numpy as np
import pytest
from etils import epath

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.examples import count_shared
from ibot_jax.evaluate.benchmarks.finegrained.sets import SETS, find, read

OFFICIAL_VAL = ("aircraft", "voc2007", "dtd", "flowers102")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for write in finegrained.WRITERS.values():
        write(root)
    return epath.Path(root)


def colours(examples):
    """Returns which colour each image has."""
    found = []
    for index in range(len(examples)):
        located, label = examples.locate(index)
        assert label == -1
        pixels = EncodedImage(examples.fetch(located), Decoding()).decode()
        means = pixels.reshape(-1, 3).mean(axis=0)
        found.append(int(np.abs(means - finegrained.COLORS).sum(axis=1).argmin()))
    return np.array(found)


@pytest.mark.parametrize("name", SETS)
def test_every_image_has_the_class_that_it_shows(data, name):
    found = read(data, name, seed=0)
    assert len(found.train.class_names) == 3
    counts = finegrained.TRAIN + finegrained.VAL * (name in OFFICIAL_VAL), finegrained.TEST
    counts = {"caltech101": (90, 9), "cifar10": (15, 9), "cifar100": (3, 9)}.get(name, counts)
    assert (len(found.train), len(found.test)) == counts
    for part in (found.train, found.test):
        targets = part.targets
        if name == "voc2007":
            # One a split is difficult for a class that it does not show.
            assert (targets == -1).sum() == (2 if part is found.train else 1)
            assert set(np.argwhere(targets == -1)[:, 0]) <= {0, finegrained.TRAIN}
            assert ((targets == 1).sum(axis=1) == 1).all()
            targets = targets.argmax(axis=1)
        np.testing.assert_array_equal(targets, colours(part))
    if name in OFFICIAL_VAL:
        np.testing.assert_array_equal(np.flatnonzero(found.held_out), np.arange(12, 18))
    else:
        assert found.held_out.sum() == max(len(found.train) // 10, 1)
    assert count_shared(found.train, found.test) == 0
    assert count_shared(found.train, found.train) == len(found.train)
    names = {found.train.relative_name(index) for index in range(len(found.train))}
    assert len(names) == len(found.train)
    assert len(list(found.train.stamps())) >= 1


def test_all_sets_are_found(data):
    assert find(data, tuple(SETS)) == list(SETS)


def test_a_seed_is_a_split_of_caltech(data):
    first, again, other = (read(data, "caltech101", seed).train.images for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 90


@pytest.mark.parametrize("name", ["cifar10", "voc2007", "dtd"])
def test_the_first_of_each_class_are_kept_in_each_split(data, name):
    whole, few = (read(data, name, seed=0, most=most) for most in (0, 2))
    splits = 2 if name in OFFICIAL_VAL else 1
    for ours, theirs, number in (
        (few.train, whole.train, 2 * splits),
        (few.test, whole.test, 2),
    ):
        np.testing.assert_array_equal(ours.shown().sum(axis=0), [number] * 3)
        np.testing.assert_array_equal(ours.targets[:6], theirs.targets[:6])
        np.testing.assert_array_equal(ours.images[:6], theirs.images[:6])
    assert few.held_out.sum() == (6 if splits == 2 else 1)


def rewrite(file, old, new):
    def change(root):
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new))

    return change


def remove(file):
    return lambda root: (root / file).unlink()


def few(folder):
    for number in (1, 2, 3):
        (folder / f"image_{number:04}.jpg").unlink()


def run_a_program(root):
    class Program:
        def __reduce__(self):
            return print, ("run",)

    (root / "test").write_bytes(pickle.dumps(Program()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("food101", remove("meta/test.txt"), "meta/test.txt is absent; food101 is "),
        ("food101", remove("images/sushi/1.jpg"), "images/sushi/1.jpg is absent; food101 is "),
        ("dtd", lambda root: shutil.rmtree(root / "images"), "banded_0000.jpg is absent; dtd is"),
        ("aircraft", rewrite("data/images_variant_val.txt", "A300B4", "A300"), "the class 'A300'"),
        ("sun397", rewrite("ClassName.txt", "/a/abbey\n", ""), "lists the class 'a/abbey'"),
        ("pets", rewrite("annotations/test.txt", "Birman_", "Bengal_"), "Bengal_13.jpg is absent"),
        ("cub200", rewrite("classes.txt", "3 003", "3 003.Wren\n4 004"), "shows the class '004"),
        ("cub200", rewrite("train_test_split.txt", "21 0\n", ""), "KeyError: '21'"),
        ("voc2007", rewrite("ImageSets/Main/cat_test.txt", " 1", " 2"), "KeyError: '2'"),
        ("voc2007", remove("ImageSets/Main/dog_val.txt"), "dog_val.txt is absent; voc2007 is"),
        ("cars", remove("cars_train/00003.jpg"), "cars_train/00003.jpg is absent; cars is"),
        ("flowers102", lambda root: (root / "setid.mat").write_text("?"), "is no file of MATLAB"),
        ("cifar100", run_a_program, "calls builtins.print; only lists"),
        ("cifar10", remove("data_batch_5"), "data_batch_5 is absent; cifar10 is"),
        ("caltech101", lambda root: few(root / "101_ObjectCategories/ant"), "ant has 30 images"),
    ],
)
def test_what_is_absent_or_odd_is_one_line_with_the_page(tmp_path, name, change, message):
    finegrained.WRITERS[name](tmp_path)
    change(tmp_path / SETS[name].folder)
    with pytest.raises(UserError) as caught:
        read(epath.Path(tmp_path), name, seed=0)
    text = str(caught.value)
    assert message in text and "\n" not in text
    assert SETS[name].page in text or "calls" in message
