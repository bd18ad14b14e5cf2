"""Chunks of a batch: what tf.data calls back for, in the process that trains.

A chunk is handed to a worker process; here are found the images that it needs before, and stand-ins
for those that could not be read after.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ibot_jax.data.make.bad_images import BadImages
from ibot_jax.data.make.examples import STAND_INS, stream
from ibot_jax.data.make.order import Positions, order_of
from ibot_jax.data.make.workers import Workers
from ibot_jax.data.sources.mixture import MixedSource
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import TrainingError
from ibot_jax.parallel.shares import Rows

ORIGIN = ("source", "replaced")  # of a mixture's images: the number of theirs, and if it was bad
MAX_TRIES = 16  # to find an image that can be read, for one place in a batch


@dataclasses.dataclass(frozen=True)
class Request:
    """One training example to be made.

    Attributes:
      located: what `Source.locate` found of its image.
      label: of the image, -1 where there is none.
      name: of the image.
      step: of the run.
      epoch: of the run.
      index: of the example.
      row: of the batch.
    """

    located: Any
    label: int
    name: str
    step: int
    epoch: int
    index: int
    row: int


class TrainChunks:
    """Makes K consecutive training examples of this process at a time.

    The methods return the arrays of the workers' task, [K, ...] each, of a mixture also those of
    `ORIGIN`, and raise `TrainingError` if too many images could not be read.
    """

    def __init__(
        self,
        source: Source | TfdsStream,
        seed: int,
        positions: Positions,
        workers: Workers,
        arguments: Callable[[Request], tuple],
        bad_images: BadImages,
    ):
        self._source = source
        self._seed = seed
        self._order = order_of(source, seed)
        self._positions = positions
        self._workers = workers
        self._arguments = arguments  # of the workers' task
        self._bad_images = bad_images

    def from_positions(self, positions: np.ndarray) -> list[np.ndarray]:
        """Makes the examples of a source with random access, from [K] int64 positions."""
        requests = []
        for position in positions:
            step, epoch, place = self._positions.locate(position)
            index = int(self._order(epoch)[place])
            row = self._positions.row(position)
            found = self._find(index % len(self._source))  # beyond, it is a repetition
            requests.append(Request(*found, step, epoch, index, row))
        mixed = isinstance(self._source, MixedSource)

        def draw(rng: np.random.Generator, request: Request) -> tuple[Any, int, str]:
            index = request.index % len(self._source)
            some = self._source.fellows(index) if mixed else range(len(self._source))
            return self._find(some[int(rng.integers(len(some)))])

        arrays, replaced = self._make(requests, draw)
        if not mixed:
            return arrays
        indices = (request.index % len(self._source) for request in requests)
        numbers = [self._source.part(index)[0] for index in indices]
        return [*arrays, np.array(numbers, np.int32), replaced]

    def from_records(
        self,
        positions: np.ndarray,
        encoded: Sequence[bytes],
        labels: Sequence[int],
        names: Sequence[bytes],
    ) -> list[np.ndarray]:
        """Makes the examples of a sequential source, whose K images are passed.

        The place in the epoch takes the role of the example index, and stand-ins for a bad image
        come from the beginning of the data.
        """
        requests = []
        for position, image, label, name in zip(positions, encoded, labels, names, strict=True):
            step, epoch, place = self._positions.locate(position)
            row = self._positions.row(position)
            requests.append(Request(image, int(label), name.decode(), step, epoch, place, row))
        standby = self._source.standby
        return self._make(requests, lambda rng, _: standby[rng.integers(len(standby))])[0]

    def _find(self, index: int) -> tuple[Any, int, str]:
        return *self._source.locate(index), self._source.describe(index)

    def _make(
        self,
        requests: Sequence[Request],
        draw_stand_in: Callable[[np.random.Generator, Request], tuple[Any, int, str]],
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns the arrays of the examples, and [K] bool, which of them are stand-ins."""
        arrays, errors, notes = self._workers([self._arguments(request) for request in requests])
        replaced = np.zeros(len(requests), bool)
        replaced[list(errors)] = True
        self._bad_images.note_reads(len(requests))
        for row, note in notes.items():
            self._bad_images.note_odd(requests[row].name, note)
        for row, reason in errors.items():
            replacement = self._replace(requests[row], reason, draw_stand_in)
            for array, value in zip(arrays, replacement, strict=True):
                array[row] = value[0]
        return arrays, replaced

    def _replace(
        self,
        request: Request,
        reason: str,
        draw_stand_in: Callable[[np.random.Generator, Request], tuple[Any, int, str]],
    ) -> list[np.ndarray]:
        """Makes the example from another image, drawn by (seed, epoch, index)."""
        rng = stream(self._seed, request.epoch, request.index, STAND_INS)
        for _ in range(MAX_TRIES):
            self._bad_images.note_bad(request.name, reason)
            located, label, name = draw_stand_in(rng, request)
            request = dataclasses.replace(request, located=located, label=label, name=name)
            arrays, errors, _ = self._workers([self._arguments(request)])
            self._bad_images.note_reads(1)
            if not errors:
                return arrays
            reason = errors[0]
        raise TrainingError(
            f"{MAX_TRIES} images in a row could not be read, the last {request.name} ({reason}); "
            f"check {self._source.name}"
        )


class EvalChunks:
    """Makes K consecutive evaluation images of this process at a time.

    The methods return images [K, H, W, C] uint8, labels [K] int32 and valid [K] bool.
    """

    def __init__(
        self,
        source: Source | TfdsStream,
        rows: Rows,
        workers: Workers,
    ):
        self._source = source
        self._rows = rows
        self._workers = workers
        self._bad_images = BadImages(len(source), max_share=1.0)

    def from_positions(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Makes the images of a source with random access, from [K] int64 positions."""
        batches, rows = np.divmod(positions, len(self._rows))
        indices = (batches * self._rows.batch_size + self._rows.numbers[rows]).tolist()
        found = [self._source.locate(i) if i < len(self._source) else (None, -1) for i in indices]
        located, labels = zip(*found, strict=True)
        return self._make(located, labels, lambda row: self._source.describe(indices[row]))

    def from_records(
        self, encoded: Sequence[bytes], labels: Sequence[int], names: Sequence[bytes]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Makes the images of a sequential source; empty ones only fill up."""
        return self._make([image or None for image in encoded], labels, lambda r: names[r].decode())

    def _make(
        self, located: Sequence[Any], labels: Sequence[int], describe: Callable[[int], str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (images,), errors, notes = self._workers([(item,) for item in located])
        valid = np.array([item is not None for item in located])
        for row, note in notes.items():
            self._bad_images.note_odd(describe(row), note)
        for row, reason in errors.items():
            if valid[row]:
                self._bad_images.note_bad(describe(row), reason)
                valid[row] = False
        return images, np.where(valid, labels, -1).astype(np.int32), valid
