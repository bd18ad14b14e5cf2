"""tensorflow-datasets: random access where the data lies as array_record, else a stream."""

import functools
import io
import os
from typing import TYPE_CHECKING, Any

from PIL import Image

from ibot_jax.data.images import decode
from ibot_jax.data.tensorflow import import_tensorflow
from ibot_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 4096  # encoded images; about half a gigabyte for ImageNet
STANDBY = 64  # images that stand in for bad ones of a stream


def open_tfds(
    name: str, split: str, *, data_dir: str = "", channels: int = 3
) -> "TfdsSource | TfdsStream":
    """Opens a prepared data set; see `sources.open_source`.

    Raises:
      UserError: if name or split are unknown, the data is not prepared or has no images.
    """
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
    try:
        num_examples = builder.info.splits[split].num_examples
    except (ValueError, KeyError) as error:
        raise UserError(
            f"split={split!r} is not in {spec}; it has {', '.join(builder.info.splits)} "
            'and parts such as "train[:10%]"'
        ) from error
    if not num_examples:
        raise UserError(f"split={split!r} of {spec} is empty; use a larger part")
    image_key = _find_feature(builder, tfds.features.Image, "image")
    if image_key is None:
        raise UserError(
            f"{spec} has no image feature; its features are {', '.join(builder.info.features)}"
        )
    label_key = _find_feature(builder, tfds.features.ClassLabel, "label")
    random_access = tfds.core.file_adapters.FileFormat.with_random_access()
    kind = TfdsSource if builder.info.file_format in random_access else TfdsStream
    return kind(builder, split, image_key, label_key, channels)


def _find_feature(builder: Any, kind: type, preferred: str) -> str | None:
    """Returns the key of the feature of that kind, the preferred one if there are several."""
    keys = [key for key, feature in builder.info.features.items() if isinstance(feature, kind)]
    return preferred if preferred in keys else next(iter(keys), None)
