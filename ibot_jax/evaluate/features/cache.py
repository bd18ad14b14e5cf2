"""Features of a whole split, extracted once and kept on disk.

    CACHE/KEY/about.json    what they are of
    CACHE/KEY/features.f32  [M, F] float32, row by row
    CACHE/KEY/labels.npy    [M] int32, -1 where there is none
    CACHE/KEY/rows.npy      [M] int64, the places of these images in the split

KEY is a hash of all that determines them: the weights, the architecture and its computation, the
kind of features, how images are cut, which images there are (paths, sizes and times of files), and
the version of the code that makes pixels and features.
Memory is bounded whatever the number of images: features go to the disk batch by batch, and are
mapped from there.
"""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np
from etils import epath

from ibot_jax.data.sources.identity import fingerprint
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import Views
from ibot_jax.evaluate.features.extract import extract_batches, make_feature_fn
from ibot_jax.files import atomic
from ibot_jax.files.paths import absolute_path, writing
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.agreement import all_say, same_end
from ibot_jax.parallel.shares import Rows
from ibot_jax.screen.progress import progress
from ibot_jax.weights.description import DESCRIBED_DATA
from ibot_jax.weights.hashes import backbone_hash
from ibot_jax.weights.model import Model

# Of the code that makes pixels and features: raised by whatever changes either, so that what an
# earlier version has kept is not taken for its own. A recorded feature in the tests tells when.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a split's images, without those that could not be read.

    Attributes:
      values: [M, F] float32, mapped from disk.
      labels: [M] int32, -1 where there is none.
      places: [M] int64, of these images in the split (of sequential TFDS data, in the order of
        reading).
    """

    values: np.ndarray
    labels: np.ndarray
    places: np.ndarray


class FeatureCache:
    """Extracts and keeps features of one model.

    Every process of several must call it alike; each keeps a copy of its own, unless they share
    the folder.
    """

    def __init__(
        self,
        folder: str,
        model: Model,
        params: Params,
        mesh: jax.sharding.Mesh,
        *,
        kind: str = "cls",
        blocks: int = 1,
    ):
        """Prepares it.

        Args:
          folder: local.
          model: whose features.
          params: its parameters, on all devices.
          mesh: the devices.
          kind: of features, see `make_feature_fn`.
          blocks: how many of the last blocks.

        Raises:
          UserError: if the folder is not a local one, or the model has not so many blocks.
        """
        if "://" in folder:
            raise UserError(f"--cache={folder} must be a local folder: features are mapped from it")
        self._folder = absolute_path(folder)
        self._feature_fn = make_feature_fn(model, kind, blocks)
        self._params = {} if kind == "pixels" else {"backbone": params["backbone"]}
        self._mesh = mesh
        self._about = identity(model, params, kind, blocks)

    def __call__(
        self,
        source: Source | TfdsStream,
        views: Views,
        name: str,
        *,
        needed: int = 1,
        purpose: str = "this",
    ) -> Features:
        """Returns the features of a split, from disk if they are there.

        Args:
          source: the split.
          views: how images are cut.
          name: of the split, for the progress bar.
          needed: how many images there have to be.
          purpose: what needs them, in words.

        Raises:
          UserError: if the folder cannot be written, or fewer images than needed can be read.
        """
        about = self._about | views.cut()
        with same_end():
            about |= {"source": source.name, "images": fingerprint(source)}
            if isinstance(source, TfdsStream):  # its order depends on it
                about["order"] = _order_of_stream(views.rows)
            key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
            target = self._folder / key
        if not all_say(target.is_dir()):
            self._extract(source, views, name, target, about)
        with same_end():
            found = _read(target)
        if len(found.labels) < needed:
            raise UserError(
                f"{len(found.labels):,} of the {len(source):,} images of {source.name} can be "
                f"read, and {purpose} needs {needed:,} or more"
            )
        return found

    def _extract(
        self,
        source: Source | TfdsStream,
        views: Views,
        name: str,
        target: epath.Path,
        about: dict[str, Any],
    ) -> None:
        """Writes the features of a split under a temporary name, which then takes its place."""
        with atomic.temporary(target) as temporary:
            with same_end(), writing("--cache", self._folder):
                temporary.mkdir(parents=True)
                file = (temporary / "features.f32").open("wb")
            batches = extract_batches(
                self._feature_fn, self._params, views.batches(source), self._mesh
            )
            labels, valid, width, failure = [], [], 0, None
            for features, batch_labels, batch_valid in progress(
                batches, views.number(source), f"{name} features"
            ):
                labels.append(batch_labels)
                valid.append(batch_valid)
                width = features.shape[1]
                if failure is None:  # told at the end: the others compute on
                    try:
                        file.write(features[batch_valid].tobytes())
                    except OSError as error:
                        failure = error
            with same_end(), writing("--cache", self._folder):
                if failure is not None:
                    raise failure
                file.close()
                places = np.flatnonzero(np.concatenate(valid))
                np.save(temporary / "labels.npy", np.concatenate(labels)[places])
                np.save(temporary / "rows.npy", places)
                about = about | {"shape": [len(places), width]}
                atomic.write_json(temporary / "about.json", about)
                if not len(places):
                    raise UserError(f"{source.name}: none of its images can be read")
                _take_place(temporary, target)


def identity(model: Model, params: Params, kind: str, blocks: int) -> dict[str, Any]:
    """Returns all that determines the features of an image, but for how it is cut; JSON types."""
    config = model.config.to_dict()
    return {
        "version": VERSION,
        "platform": jax.default_backend(),  # in bfloat16 each rounds in its own way
        "features": kind,
        "blocks": blocks,
        "weights": "" if kind == "pixels" else backbone_hash(params),
        "model": config["model"],
        "channels": {key: config["data"][key] for key in DESCRIBED_DATA},
        "dtype": config["dtype"],
    }


def _read(folder: epath.Path) -> Features:
    try:
        number, width = json.loads((folder / "about.json").read_text())["shape"]
        labels, places = (np.load(folder / f"{name}.npy") for name in ("labels", "rows"))
        size = (folder / "features.f32").stat().length
        if not len(labels) == len(places) == number or size != 4 * number * width:
            raise ValueError("its files are of different lengths")
        values = np.memmap(folder / "features.f32", np.float32, "r", shape=(number, width))
    except Exception as error:  # NumPy raises many kinds
        raise UserError(f"{folder} is damaged ({error}); remove it") from error
    return Features(values, labels, places)


def _take_place(temporary: epath.Path, target: epath.Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():  # else another process, which shares the folder, was first
            raise
        atomic.remove(temporary, quiet_s=0)


def _order_of_stream(rows: Rows) -> list:
    """Returns what the order of a sequential source's images depends on; JSON types."""
    order = [rows.batch_size, len(rows.shares)]
    in_blocks = sum(rows.shares, ()) == tuple(range(rows.batch_size))
    return order if in_blocks else [*order, rows.shares]
