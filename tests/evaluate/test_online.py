"""What is measured of a teacher during training, from features and logits found another way."""

import io
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from PIL import Image
from teachers import evaluation_of
from tiny import normalized, tiny_config, tiny_plan

from ibot_jax.data import pipeline
from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.make.workers import Workers
from ibot_jax.data.pipeline import eval_batches
from ibot_jax.data.sources.opening import open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import TrainingError, UserError
from ibot_jax.evaluate import online
from ibot_jax.files.tf import import_tensorflow
from ibot_jax.methods.state import teacher_params
from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import all_rows
from ibot_jax.runs.training import make_init

ONE = make_mesh(jax.devices()[:1])
LABEL_FREE = {"feature_rank", "prototypes_used", "patch_prototypes_used"}


@pytest.fixture(scope="module")
def config(images):
    return tiny_config(
        data__source=f"folder:{images}",
        head__shared=False,
        head__shared_teacher=False,
        head__patch_prototypes=10,
        knn__resize=16,
        knn__batch_size=8,
        knn__k=3,
    )


@pytest.fixture(scope="module")
def weights(config):
    """Returns a teacher whose centers change which prototype is the first choice."""
    state = jax.jit(make_init(config, tiny_plan(config)))(jax.random.key(0))
    rng = np.random.default_rng(0)
    centers = {
        kind: rng.normal(size=center.shape).astype(np.float32) / 50
        for kind, center in state.buffers["centers"].items()
    }
    return jax.device_get({**teacher_params(state), "centers": centers})


def tokens_and_logits(config, weights, pixels):
    """Returns tokens [M, 1 + N, D], class and patch logits [M, 1 + N, K], without the centers."""
    views = normalized(config, pixels)
    backbone, head = (
        build_backbone(config.model, config.data.global_size, config.dtype),
        build_head(config.head, config.dtype, teacher=True),
    )
    tokens = jax.jit(backbone.apply)({"params": weights["backbone"]}, views).sequence
    logits = jax.jit(head.apply)({"params": weights["head"]}, tokens)
    return np.asarray(tokens), *(
        np.asarray(x) - weights["centers"][kind]
        for x, kind in zip(logits, ("class", "patch"), strict=True)
    )


def pixels_of(source):
    """Returns the central squares of all images, [M, 16, 16, 3]."""
    batches = eval_batches(source, CentralView((16, 16), (16, 16)), all_rows(len(source)))
    return np.concatenate([batch["images"] for batch in batches])


def test_with_labels(config, images, weights):
    source = open_source(f"folder:{images}", "train")
    values = evaluation_of(config, source)(weights, make_mesh())
    assert set(values) == LABEL_FREE | {
        "knn_top1",
        "knn_top5",
        "probe_top1",
        "probe_top5",
        "prototype_nmi",
    }
    assert values["knn_top1"] == values["probe_top1"] == 100  # colours that differ
    test = open_source(f"folder:{images}", "test")
    tokens, class_logits, patch_logits = tokens_and_logits(config, weights, pixels_of(test))
    singular = np.linalg.svd(tokens[:, 0], compute_uv=False)
    rank = np.exp(scipy.stats.entropy(singular))
    assert values["feature_rank"] == pytest.approx(rank, rel=1e-3)
    chosen = class_logits[:, 0].argmax(axis=-1)
    assert values["prototypes_used"] == len(set(chosen)) / 12
    nmi = sklearn.metrics.normalized_mutual_info_score(test.labels, chosen)
    assert values["prototype_nmi"] == pytest.approx(100 * nmi)
    places = [1 + row % 8 % 16 for row in range(len(test))]  # batches of eight, 16 patches
    chosen = patch_logits[range(len(test)), places].argmax(axis=-1)
    assert values["patch_prototypes_used"] == len(set(chosen)) / 10


@pytest.mark.slow
def test_prototypes_in_use_without_centers(config, images, weights):
    """Of both kinds by the logits themselves; of one kind where it alone has a center."""
    evaluation = evaluation_of(config, open_source(f"folder:{images}", "train"))
    centers = {kind: np.zeros_like(center) for kind, center in weights["centers"].items()}
    balanced = {name: tree for name, tree in weights.items() if name != "centers"}
    without, zero = (
        evaluation(networks, ONE) for networks in (balanced, weights | {"centers": centers})
    )
    assert without == zero and without.keys() > LABEL_FREE
    values = evaluation(balanced | {"centers": {"class": centers["class"]}}, ONE)
    assert values == {k: v for k, v in zero.items() if k != "patch_prototypes_used"}


def test_images_that_are_their_own_neighbours_are_counted(config, images, weights, monkeypatch):
    told = []
    monkeypatch.setattr(online._log, "warning", lambda text, *words: told.append(text % words))
    own = config.copy_and_resolve_references()
    own.knn.update(test_split="train", k=1, max_test_per_class=4)
    own.probe.max_steps = 0
    evaluation = evaluation_of(own, open_source(f"folder:{images}", "train"))
    assert "12 of these training images, too" in evaluation.splits.description
    assert "12 of the images of knn.test_split='train' are among those of" in told[0]
    values = evaluation(weights, ONE)
    assert (values["knn_shared_images"], values["knn_top1"]) == (12, 100.0)
    other = evaluation_of(config, open_source(f"folder:{images}", "train"))
    assert other.splits.shared_images == 0
    assert "training images" not in other.splits.description


def with_old(config, source):
    other = config.copy_and_resolve_references()
    other.knn.old_source = str(source)
    return other


@pytest.mark.slow
def test_old_images_are_measured_besides(config, images, tmp_path, weights):
    """By the same accuracies as if they were the data; where the new ones have no labels, too."""
    old = tmp_path / "old"
    for split in ("train", "test"):  # two classes that nothing tells apart
        for number, path in enumerate(sorted(pathlib.Path(images, split).rglob("*.png"))):
            folder = old / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / f"{number}.png")
    spec = f"folder:{old}"
    alone = config.copy_and_resolve_references()
    alone.data.source = spec
    of_old = evaluation_of(alone, open_source(spec, "train"))(weights, ONE)
    source = open_source(f"folder:{images}", "train")
    evaluation = evaluation_of(with_old(config, spec), source)
    assert evaluation.splits.description.endswith(
        "15 test images; of old images k-NN (k = 3) and linear probe, 36 train and 15 test images, "
        "every 10 epochs"
    )
    assert len(evaluation.splits.sources) == 4
    accuracies = {name: x for name, x in of_old.items() if name.startswith(("knn", "probe"))}
    expected = {f"old_{name}": x for name, x in accuracies.items()}
    assert expected["old_knn_top1"] < 100
    assert evaluation(weights, ONE) == {
        **evaluation_of(config, source)(weights, ONE),
        **expected,
    }
    source.class_names = source.labels = None
    found = evaluation_of(with_old(config, spec), source)(weights, ONE)
    assert set(found) == LABEL_FREE | set(expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r": data\.source='folder:\S*' is no folder; give the path of one$"),
        (("0.png",), ": has no labels: it needs a folder for each class, in train and test$"),
        (("a/0.png", "b/0.png"), ": .* has no split called test, val or validation$"),
        (("train/a/0.png", "test/b/0.png"), ": .* has other classes than"),
        (("train/a/0.png", "test/a/0.png"), ": knn.k=3 is larger than the 1 images of .*train"),
    ],
)
def test_old_images_that_cannot_be_measured_are_a_mistake(config, images, tmp_path, names, message):
    write(tmp_path / "old", *names)
    spec = f"folder:{tmp_path / 'old'}"
    with pytest.raises(UserError, match=f"^knn.old_source='{spec}'{message}") as error:
        evaluation_of(with_old(config, spec), open_source(f"folder:{images}", "train"))
    assert "\n" not in str(error.value)


def test_without_labels_images_are_evenly_spaced(config, images, weights):
    """Three colours in order of their names; of nine images three are of each."""
    whole = open_source(f"folder:{images}", "train")
    whole.class_names = whole.labels = None
    limited = config.copy_and_resolve_references()
    limited.knn.max_unlabelled = 9
    evaluation = evaluation_of(limited, whole)
    assert evaluation.splits.num_images == 9
    assert "9 images without labels" in evaluation.splits.description
    found = evaluation(weights, ONE)
    assert set(found) == LABEL_FREE
    tokens, *_ = tokens_and_logits(config, weights, pixels_of(whole)[::4])
    singular = np.linalg.svd(tokens[:, 0], compute_uv=False)
    assert found["feature_rank"] == pytest.approx(np.exp(scipy.stats.entropy(singular)), rel=1e-3)


class Stream(TfdsStream):
    """40 images that can only be read one after the other; notes how many were."""

    name, labels, class_names, num_classes = "stream", None, None, None

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 400

    def records(self, share, num_shares, *, shuffle_seed=None):
        def images():
            for self.read in range(1, 401):
                file = io.BytesIO()
                Image.fromarray(np.full((16, 16, 3), self.read % 256, np.uint8)).save(file, "PNG")
                yield file.getvalue(), -1, str(self.read).encode()

        tf = import_tensorflow()
        kinds = ((), tf.string), ((), tf.int32), ((), tf.string)
        signature = tuple(tf.TensorSpec(*kind) for kind in kinds)
        return tf.data.Dataset.from_generator(images, output_signature=signature)


def test_of_a_stream_the_first_batches_are_read(config, weights):
    limited = config.copy_and_resolve_references()
    limited.knn.max_unlabelled = 16
    source = Stream()
    assert set(evaluation_of(limited, source)(weights, ONE)) == LABEL_FREE
    assert 16 <= source.read < 200  # some are read ahead


def test_the_probe_can_be_left_out(config, images, weights):
    without = config.copy_and_resolve_references()
    without.probe.max_steps = 0
    source = open_source(f"folder:{images}", "train")
    evaluation = evaluation_of(without, source)
    assert (
        evaluation.splits.description
        == "k-NN (k = 3), 36 train and 15 test images, every 10 epochs"
    )
    values = evaluation(weights, ONE)
    assert "knn_top1" in values and "probe_top1" not in values


def test_images_are_made_by_as_many_workers_as_those_of_training(
    config, images, weights, monkeypatch
):
    started = []

    def start(task, count, rows):
        started.append(count)
        return Workers(task, count, rows)

    monkeypatch.setattr(pipeline, "Workers", start)
    three = config.copy_and_resolve_references()
    three.data.workers = 3
    evaluation_of(three, open_source(f"folder:{images}", "train"))(weights, ONE)
    assert started == [3, 3]


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(folder / name)


def opened(config, folder, split, k=1):
    other = config.copy_and_resolve_references()
    other.data.source, other.knn.test_split, other.knn.k = f"folder:{folder}", split, k
    return evaluation_of(other, open_source(other.data.source, "train"))


@pytest.mark.parametrize(
    ("split", "kept", "message"),
    [
        ("test", 0, r"^0 of the 2 images of folder:\S*test.* can be read, .* needs 1 or more"),
        ("train", 1, r"^1 of the 3 images of folder:\S*train.* can be read, .* needs 2 or more"),
    ],
)
def test_images_that_went_while_the_run_trains_are_counted(
    config, weights, tmp_path, split, kept, message
):
    write(tmp_path, *(f"train/{name}.png" for name in ("a/0", "a/1", "b/0")))
    write(tmp_path, "test/a/0.png", "test/b/0.png")
    evaluation = opened(config, tmp_path, "test", k=2)
    for path in sorted((tmp_path / split).rglob("*.png"))[kept:]:
        path.write_bytes(b"no image")
    with pytest.raises(TrainingError, match=message):
        evaluation(weights, ONE)


@pytest.mark.parametrize("name", ["test", "Val", "VALIDATION"])
def test_the_split_to_test_on_is_found(config, tmp_path, name):
    write(tmp_path, "train/a/0.png", "train/b/0.png", f"{name}/a/0.png", f"{name}/b/0.png")
    found = opened(config, tmp_path, "auto").splits.description
    assert found.startswith("k-NN (k = 1) and linear probe, 2 train and 2 test images")


def test_without_a_split_to_test_on_training_images_are_measured(config, tmp_path, weights):
    write(tmp_path, "a/0.png", "a/1.png", "test/2.png")
    evaluation = opened(config, tmp_path, "auto")
    assert evaluation.splits.description == (
        f"rank and prototypes, 3 training images; no k-NN, for folder:{tmp_path} has no split "
        "called test, val or validation, every 10 epochs"
    )
    assert set(evaluation(weights, ONE)) == LABEL_FREE
    with pytest.raises(UserError, match=r"^knn\.test_split='val' is no subfolder.*: a, test"):
        opened(config, tmp_path, "val")
    with pytest.raises(UserError, match=r"^knn\.test_split='test' .* is one of the class folders"):
        opened(config, tmp_path, "test")


def test_a_split_that_is_named_has_to_be_there_without_labels_too(config, tmp_path):
    write(tmp_path, "0.png")
    assert "1 images without labels" in opened(config, tmp_path, "auto").splits.description
    with pytest.raises(UserError, match=r"^knn\.test_split='test' is no subfolder"):
        opened(config, tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test/b/0.png", "has other classes than .*: only one of them has a"),
        ("test/0.png", "has no"),
    ],
)
def test_a_split_with_other_labels_is_a_mistake_or_left_out(config, tmp_path, name, reason):
    write(tmp_path, "train/a/0.png", name)
    assert re.search(
        f"; no k-NN, for .*{reason}", opened(config, tmp_path, "auto").splits.description
    )
    with pytest.raises(UserError, match=rf"^knn\.test_split='test' of .* {reason}.*knn\.every"):
        opened(config, tmp_path, "test")


def spoil(folder, pattern, but=0):
    """Leaves only the first so many of some images readable."""
    for path in sorted(folder.glob(pattern))[but:]:
        path.write_bytes(b"no picture at all")


@pytest.mark.parametrize(
    ("pattern", "but", "message"),
    [
        ("train/*/*", 2, "2 of the 36 images of .*/train can be read, and knn.k=3 needs 3 or more"),
        ("test/*/*", 0, "0 of the 15 images of .*/test can be read, and an evaluation"),
    ],
)
def test_too_few_images_are_told_before_and_during_a_run(
    config, images, tmp_path, weights, pattern, but, message
):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    other = config.copy_and_resolve_references()
    other.data.source = f"folder:{folder}"
    source = open_source(other.data.source, "train")
    evaluation = evaluation_of(other, source)
    spoil(folder, pattern, but)
    with pytest.raises(TrainingError, match=message.partition(" can be read")[0]):
        evaluation(weights, ONE)
    with pytest.raises(UserError, match=message):
        evaluation_of(other, source)


def test_nothing_readable_without_labels_is_told_before_a_run(config, tmp_path):
    write(tmp_path, "0.png")
    spoil(tmp_path, "*")
    with pytest.raises(UserError, match="0 of the 1 images of"):
        opened(config, tmp_path, "auto")
