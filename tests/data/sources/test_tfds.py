"""TFDS: random access to array_record, a repeatable stream from TFRecord, and users' mistakes."""

import numpy as np
import pytest
from shares import blocks, in_turn
from tiny import pipeline_settings

from ibot_jax.config.plan import make_plan
from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.labelled import labelled_batches
from ibot_jax.data.pipeline import eval_batches, train_batches
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.opening import open_source, splits_for_testing
from ibot_jax.data.sources.shared_images import find_shared
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import TrainingError, UserError
from ibot_jax.finetune.config import get_config as finetune_config
from ibot_jax.parallel.shares import all_rows

ALL = all_rows(16)
FORMATS = ["array_record", "tfrecord"]
PLAIN = dict(jitter=0.0, gray=0.0, blur=(0.0, 0.0, 0.0), solarize=(0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder for each file format with "levels": 40 images, each of its own grey, and 10 more."""
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()

    class Levels(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}  # noqa: RUF012 - nothing is downloaded

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
                "words": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

        def _generate_examples(self, count):
            for index in range(count):
                image = np.full((8, 9, 3), index * 5, np.uint8)
                yield f"{index:03d}", {"image": image, "label": index % 2, "words": "unread"}

    root = tmp_path_factory.mktemp("tfds")
    for file_format in FORMATS:
        Levels(data_dir=root / file_format, file_format=file_format).download_and_prepare()
    return root


def open_levels(data_dir, file_format, split="train"):
    return open_source("tfds:levels", split, data_dir=str(data_dir / file_format))


def test_the_split_to_test_on_is_found(data_dir):
    found = splits_for_testing("tfds:levels", data_dir=str(data_dir / "tfrecord"))
    assert found == ["test"]


def levels(batches):
    """The grey levels of the batches' first global views, [steps, rows]."""
    return np.array([batch["global_views"][:, 0, 0, 0, 0] for batch in batches])


def run(source, config, rows=ALL, **options):
    config.data.update(PLAIN)
    config.batch_size = 16
    plan = make_plan(config, len(source))
    return list(train_batches(source, plan, rows, **pipeline_settings(config), **options))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_split_knows_its_size_and_classes(data_dir, file_format):
    source = open_levels(data_dir, file_format, "train[:50%]")
    assert len(source) == 20
    assert source.num_classes == 2
    assert source.class_names == ["even", "odd"]
    assert source.name == "tfds:levels/1.0.0, train[:50%]"
    assert isinstance(source, TfdsStream) == (file_format == "tfrecord")


@pytest.mark.parametrize("file_format", FORMATS)
def test_parts_of_a_split_share_the_examples_that_both_take(data_dir, file_format):
    first, second, test = (
        open_levels(data_dir, file_format, name) for name in ("train[:50%]", "train[25%:]", "test")
    )
    found = find_shared(first, second)  # of 40 the first 20, and all from the tenth on
    assert (len(found.first), len(found.second), found.count) == (20, 30, 10)
    assert (found.first >= 0).sum() == 10 and found.copies == 1
    assert find_shared(first, test).count == 0
    if file_format != "tfrecord":
        pixels = [source.locate(index)[0] for source in (first, second) for index in range(20)]
        np.testing.assert_array_equal(
            found.second[:20] >= 0, [image in pixels[:20] for image in pixels[20:]]
        )


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_run_repeats_itself_and_can_be_resumed(data_dir, config, file_format):
    source = open_levels(data_dir, file_format)
    batches = run(source, config)
    assert len(batches) == 4  # 2 epochs of 40 // 16 steps
    for found in (run(source, config), [*batches[:3], *run(source, config, start_step=3)]):
        for one, other in zip(found, batches, strict=True):
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])
    epochs = levels(batches).reshape(2, 32)
    for epoch in epochs:
        assert len(set(epoch)) == 32  # nothing twice
        assert epoch.tolist() != sorted(epoch)
    assert epochs[0].tolist() != epochs[1].tolist()
    config.seed = 5
    assert levels(run(source, config)).tolist() != levels(batches).tolist()


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("last", "sides"), [("3 steps", (24,)), ("100%", (16, 24))])
def test_views_of_several_sizes_are_of_the_images_of_their_steps(
    data_dir, config, file_format, last, sides
):
    source = open_levels(data_dir, file_format)
    config.duration = "4 epochs"
    expected = levels(run(source, config)).tolist()
    local = tuple(side // 2 for side in sides)
    config.high_res.update(
        last=last, global_sides=sides, local_sides=local, shares=(1.0,) * len(sides)
    )
    batches = run(source, config)
    assert {batch["global_views"].shape[2] for batch in batches} == {16, 24}
    assert levels(batches).tolist() == expected
    assert levels(run(source, config, start_step=3)).tolist() == expected[3:]


@pytest.mark.parametrize("file_format", FORMATS)
def test_labels_come_with_their_images(data_dir, config, file_format):
    """Level 5 n has label n % 2; a crop of one grey has that grey."""
    recipe = finetune_config()
    recipe.update(batch_size=16, duration="2 epochs")
    recipe.data.rand_augment.ops = 0
    recipe.data.workers = 1
    source = open_levels(data_dir, file_format)
    plan = make_plan(config, len(source))
    rows, settings = all_rows(plan.batch_size), dict(seed=recipe.seed, data=recipe.data)
    for batch in labelled_batches(source, (8, 8), (0.5,) * 3, Decoding(), plan, rows, **settings):
        np.testing.assert_array_equal(batch["labels"], batch["images"][:, 0, 0, 0] // 5 % 2)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("divide", [blocks, in_turn])
def test_processes_see_different_images(data_dir, config, file_format, divide):
    source = open_levels(data_dir, file_format)
    joined = np.zeros((4, 16), int)
    for rows in divide(16, 2):
        joined[:, rows.numbers] = levels(run(source, config, rows))
    for epoch in joined.reshape(2, 32):
        assert len(set(epoch)) == 32
    if file_format == "array_record":
        np.testing.assert_array_equal(joined, levels(run(source, config)))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("divide", "count"), [(blocks, 1), (blocks, 3), (in_turn, 3)])
def test_evaluation_sees_every_image_once_with_its_label(data_dir, file_format, divide, count):
    source = open_levels(data_dir, file_format, "test")
    view = CentralView((8, 8), (8, 8))
    shares = [list(eval_batches(source, view, rows)) for rows in divide(2 * count, count)]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    valid = np.concatenate([batch["valid"] for batch in batches])
    seen = np.concatenate([batch["images"][:, 0, 0, 0] for batch in batches])[valid]
    labels = np.concatenate([batch["labels"] for batch in batches])
    assert sorted(seen) == list(range(0, 50, 5))
    np.testing.assert_array_equal(labels[valid], seen // 5 % 2)
    assert (labels[~valid] == -1).all()


def test_a_bad_image_in_a_stream_is_replaced(data_dir, config, monkeypatch, caplog):
    source = open_levels(data_dir, "tfrecord")
    healthy = levels(run(source, config))
    original = TfdsStream.records

    def with_a_bad_image(self, *args, **options):
        import tensorflow as tf

        def spoil(image, label, name):
            bad = tf.strings.regex_full_match(name, ".*__7")
            return tf.where(bad, tf.constant(b"no image"), image), label, name

        return original(self, *args, **options).map(spoil)

    monkeypatch.setattr(TfdsStream, "records", with_a_bad_image)
    with pytest.raises(TrainingError, match="max_bad_share=0.0 of 40"):
        run(source, config)
    config.data.max_bad_share = 0.1
    found = levels(run(source, config))
    assert 1 <= (found != healthy).sum() <= 2  # once an epoch, unless left over
    assert "__7" in caplog.text
    np.testing.assert_array_equal(levels(run(source, config)), found)


@pytest.mark.parametrize(
    ("name", "split", "parts"),
    [
        ("no_such_data", "train", ["data.source='tfds:no_such_data'", "data.data_dir"]),
        ("cifar10", "train", ["data.source='tfds:cifar10'", "tfds build cifar10", "--manual_dir"]),
        ("levels:9.9.9", "train", ["data.source='tfds:levels:9.9.9'"]),
        ("levels", "val", ["split='val'", "train, test"]),
        ("levels", "train[", ["split='train['", "train, test"]),
        ("levels", "train[:0]", ["split='train[:0]'", "empty"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(data_dir, name, split, parts):
    with pytest.raises(UserError) as error:
        open_source(f"tfds:{name}", split, data_dir=str(data_dir / "tfrecord"))
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_classes_cannot_be_cut(data_dir):
    with pytest.raises(UserError, match="max_per_class=5"):
        open_source("tfds:levels", "train", data_dir=str(data_dir), max_per_class=5)
