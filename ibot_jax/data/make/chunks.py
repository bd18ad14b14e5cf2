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

    The methods take a place of the workers' batches and the first row to fill. They return nothing
    besides, but of a mixture the arrays of `ORIGIN`, [K] each, and raise `TrainingError` if too
    many images could not be read.
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

    def from_positions(self, place: int, row: int, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Makes the examples of a source with random access, from [K] int64 positions."""
        requests = []
        for position in positions:
            step, epoch, of_epoch = self._positions.locate(position)
            index = int(self._order(epoch)[of_epoch])
            of_batch = self._positions.row(position)
            found = self._find(index % len(self._source))  # beyond, it is a repetition
            requests.append(Request(*found, step, epoch, index, of_batch))
        mixed = isinstance(self._source, MixedSource)

        def draw(rng: np.random.Generator, request: Request) -> tuple[Any, int, str]:
            index = request.index % len(self._source)
            some = self._source.fellows(index) if mixed else range(len(self._source))
            return self._find(some[int(rng.integers(len(some)))])

        replaced = self._make(place, row, requests, draw)
        if not mixed:
            return ()
        indices = (request.index % len(self._source) for request in requests)
        numbers = [self._source.part(index)[0] for index in indices]
        return np.array(numbers, np.int32), replaced

    def from_records(
        self,
        place: int,
        row: int,
        positions: np.ndarray,
        encoded: Sequence[bytes],
        labels: Sequence[int],
        names: Sequence[bytes],
    ) -> tuple[()]:
        """Makes the examples of a sequential source, whose K images are passed.

        The place in the epoch takes the role of the example index, and stand-ins for a bad image
        come from the beginning of the data.
        """
        requests = []
        for position, image, label, name in zip(positions, encoded, labels, names, strict=True):
            step, epoch, of_epoch = self._positions.locate(position)
            of_batch = self._positions.row(position)
            found = image, int(label), name.decode()
            requests.append(Request(*found, step, epoch, of_epoch, of_batch))
        standby = self._source.standby
        self._make(place, row, requests, lambda rng, _: standby[rng.integers(len(standby))])
        return ()

    def _find(self, index: int) -> tuple[Any, int, str]:
        return *self._source.locate(index), self._source.describe(index)

    def _make(
        self,
        place: int,
        row: int,
        requests: Sequence[Request],
        draw_stand_in: Callable[[np.random.Generator, Request], tuple[Any, int, str]],
    ) -> np.ndarray:
        """Makes the examples; returns [K] bool, which of them are stand-ins."""
        arguments = [self._arguments(request) for request in requests]
        errors, notes = self._workers(arguments, place, row)
        replaced = np.zeros(len(requests), bool)
        replaced[list(errors)] = True
        self._bad_images.note_reads(len(requests))
        for number, note in notes.items():
            self._bad_images.note_odd(requests[number].name, note)
        for number, reason in errors.items():
            self._replace(place, row + number, requests[number], reason, draw_stand_in)
        return replaced

    def _replace(
        self,
        place: int,
        row: int,
        request: Request,
        reason: str,
        draw_stand_in: Callable[[np.random.Generator, Request], tuple[Any, int, str]],
    ) -> None:
        """Makes the example from another image, drawn by (seed, epoch, index)."""
        rng = stream(self._seed, request.epoch, request.index, STAND_INS)
        for _ in range(MAX_TRIES):
            self._bad_images.note_bad(request.name, reason)
            located, label, name = draw_stand_in(rng, request)
            request = dataclasses.replace(request, located=located, label=label, name=name)
            errors, _ = self._workers([self._arguments(request)], place, row)
            self._bad_images.note_reads(1)
            if not errors:
                return
            reason = errors[0]
        raise TrainingError(
            f"{MAX_TRIES} images in a row could not be read, the last {request.name} ({reason}); "
            f"check {self._source.name}"
        )


class EvalChunks:
    """Makes K consecutive evaluation images of this process at a time.

    The methods take a place of the workers' batches, for images [B, H, W, C] uint8, and the first
    row to fill. They return labels [K] int32 and valid [K] bool.
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

    def from_positions(
        self, place: int, row: int, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Makes the images of a source with random access, from [K] int64 positions."""
        batches, rows = np.divmod(positions, len(self._rows))
        indices = (batches * self._rows.batch_size + self._rows.numbers[rows]).tolist()
        found = [self._source.locate(i) if i < len(self._source) else (None, -1) for i in indices]
        located, labels = zip(*found, strict=True)
        names = [self._source.describe(i) if i < len(self._source) else "" for i in indices]
        return self._make(place, row, located, labels, names)

    def from_records(
        self,
        place: int,
        row: int,
        encoded: Sequence[bytes],
        labels: Sequence[int],
        names: Sequence[bytes],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Makes the images of a sequential source; empty ones only fill up."""
        located = [image or None for image in encoded]
        return self._make(place, row, located, labels, [name.decode() for name in names])

    def _make(
        self,
        place: int,
        row: int,
        located: Sequence[Any],
        labels: Sequence[int],
        names: Sequence[str],
    ) -> tuple[np.ndarray, np.ndarray]:
        errors, notes = self._workers([(item,) for item in located], place, row)
        valid = np.array([item is not None for item in located])
        for number, note in notes.items():
            self._bad_images.note_odd(names[number], note)
        for number, reason in errors.items():
            if valid[number]:
                self._bad_images.note_bad(names[number], reason)
                valid[number] = False
        return np.where(valid, labels, -1).astype(np.int32), valid
