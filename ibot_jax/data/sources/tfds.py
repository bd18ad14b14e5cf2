"""tensorflow-datasets: random access where the data lies as array_record, else a stream."""

import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ibot_jax.data.sources import splits
from ibot_jax.errors import UserError
from ibot_jax.files.tf import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 4096  # encoded images; about half a gigabyte for ImageNet
STANDBY = 64  # images that stand in for bad ones of a stream


def open_tfds(
    name: str, split: str, *, data_dir: str = "", key: str = "split"
) -> "TfdsSource | TfdsStream":
    """Opens a prepared data set; see `sources.open_source`.

    Raises:
      UserError: if name or split are unknown, the data is not prepared or has no images.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    spec = f"data.source='tfds:{name}'"
    builder = _prepared(name, data_dir)
    try:
        num_examples = builder.info.splits[split].num_examples
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{key}={split!r} is not in {spec}; it has {', '.join(builder.info.splits)} "
            'and parts such as "train[:10%]"'
        ) from error
    if not num_examples:
        raise UserError(f"{key}={split!r} of {spec} is empty; use a larger part")
    image_key = _find_feature(builder, tfds.features.Image, "image")
    if image_key is None:
        raise UserError(
            f"{spec} has no image feature; its features are {', '.join(builder.info.features)}"
        )
    label_key = _find_feature(builder, tfds.features.ClassLabel, "label")
    random_access = tfds.core.file_adapters.FileFormat.with_random_access()
    kind = TfdsSource if builder.info.file_format in random_access else TfdsStream
    return kind(builder, split, image_key, label_key)


def splits_for_testing(name: str, *, data_dir: str = "") -> list[str]:
    """Returns the splits that are called like one to test on, the likeliest first.

    That is the one for validation: the labels of a "test" are hidden in some sets (ImageNet).

    Raises:
      UserError: if the name is unknown, or the data is not prepared.
    """
    first = ("val", "validation", "valid")
    return splits.for_testing(_prepared(name, data_dir).info.splits, first)


def _prepared(name: str, data_dir: str) -> Any:
    """Returns the builder of a data set that is prepared."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    spec = f"data.source='tfds:{name}'"
    data_dir = os.path.expanduser(data_dir) or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{spec} is unknown: {reason} Use a name of tensorflow.org/datasets/catalog, or of a "
            f"data set prepared under data.data_dir ({data_dir or tfds.core.constants.DATA_DIR})"
        ) from error
    if not builder.info.splits:
        raise UserError(
            f"{spec} is not prepared under {builder.data_dir}; run: tfds build {name} "
            f"--file_format=array_record --data_dir={builder.data_dir_root} "
            "(and --manual_dir=DIR for archives that you fetched yourself)"
        )
    return builder


def _find_feature(builder: Any, kind: type, preferred: str) -> str | None:
    """Returns the key of the feature of that kind, the preferred one if there are several."""
    keys = [key for key, feature in builder.info.features.items() if isinstance(feature, kind)]
    return preferred if preferred in keys else next(iter(keys), None)


class _Tfds:
    """What both kinds share: the names of things, and which features are decoded."""

    labels = None  # they lie beside the images
    fetch = bytes  # what is located is the encoded image

    def __init__(self, builder: Any, split: str, image_key: str, label_key: str | None):
        import tensorflow_datasets as tfds

        info = builder.info
        self._builder = builder
        self._split = split
        self._image_key = image_key
        self._label_key = label_key
        self._num_examples = info.splits[split].num_examples
        self._decoders = {image_key: tfds.decode.SkipDecoding()}  # the image stays encoded
        self.name = f"tfds:{info.full_name}, {split}"
        self._data_dir = str(builder.data_dir)
        self.class_names = info.features[label_key].names if label_key else None
        self.num_classes = info.features[label_key].num_classes if label_key else None

    def __len__(self) -> int:
        return self._num_examples

    def stamps(self) -> Iterator[str]:
        """Yields name, number and place, since a prepared data set does not change."""
        yield from (self.name, str(len(self)), self._data_dir)

    def parts(self) -> list[tuple[str, int, int]]:
        """Returns the files of these examples, and of each the first and one behind the last."""
        files = self._builder.info.splits[self._split].file_instructions
        return [(file.filename, file.skip, file.skip + file.take) for file in files]


class TfdsSource(_Tfds):
    """A split prepared as array_record: random access, the same interface as every source."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._records = self._builder.as_data_source(self._split, decoders=self._decoders)

    def locate(self, index: int) -> tuple[bytes, int]:
        record = self._records[index]
        return record[self._image_key], int(record[self._label_key]) if self._label_key else -1

    def describe(self, index: int) -> str:
        return f"{self.name}, example {index}"

    relative_name = describe


class TfdsStream(_Tfds):
    """A split prepared as TFRecord files, which can only be read in sequence.

    What holds instead of random access: each process reads its own share, a contiguous part of
    every epoch, for its rows of the batches; the files of the share are shuffled, and then the
    encoded images within a buffer of `SHUFFLE_BUFFER`, by a seed drawn from (seed, epoch). A run
    can be repeated and resumed exactly, by the same number of processes with devices in the same
    order; others give another order of images. Resuming reads, but does not decode, the part of the
    epoch that has been seen.
    """

    def records(
        self, share: int, num_shares: int, *, shuffle_seed: int | None = None
    ) -> "tf.data.Dataset":
        """Returns one share of several as (encoded image, label int32 or -1, name) scalars.

        Shuffled, all shares have len // num_shares examples; in order, they hold every example.
        """
        import tensorflow as tf
        import tensorflow_datasets as tfds

        shuffled = shuffle_seed is not None
        shares = tfds.even_splits(self._split, num_shares, drop_remainder=shuffled)
        keys = {key: True for key in (self._image_key, self._label_key) if key}
        records = self._builder.as_dataset(
            split=shares[share],
            decoders=tfds.decode.PartialDecoding(keys, decoders=self._decoders),
            shuffle_files=shuffled,
            read_config=tfds.ReadConfig(
                shuffle_seed=shuffle_seed, add_tfds_id=True, try_autocache=False
            ),
        )
        if shuffled:
            records = records.shuffle(
                SHUFFLE_BUFFER, seed=shuffle_seed, reshuffle_each_iteration=False
            )

        def as_tuple(record):
            label = record[self._label_key] if self._label_key else -1
            return record[self._image_key], tf.cast(label, tf.int32), record["tfds_id"]

        return records.map(as_tuple)

    @functools.cached_property
    def standby(self) -> list[tuple[bytes, int, str]]:
        """(image, label, name) of the first `STANDBY` examples, which stand in for bad ones."""
        first = self.records(0, 1).take(STANDBY).as_numpy_iterator()
        return [(encoded, int(label), name.decode()) for encoded, label, name in first]
