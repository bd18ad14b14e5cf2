"""Several sources in one, in given proportions: `data.mixture`.

    data.mixture = "0.7: tar:/data/web-*.tar; 0.3: folder:/data/mine"

An epoch has `data.mixture_epoch` images, of each source its share: the exact number, rounded such
that the sum is right. A source goes on where the epoch before left off, through one permutation of
its images after the other, so that all of them are seen equally often, however large they are
beside its share. `make.order.MixedOrder` is that order.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ibot_jax.config.section import Section
from ibot_jax.data.sources.opening import Source, open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError


class MixedSource:
    """The images of several sources, one source after the other; without labels.

    Attributes:
      parts: the sources.
      counts: how many images of each an epoch has.
    """

    labels = class_names = num_classes = None

    def __init__(self, parts: Sequence[Source], counts: Sequence[int]):
        self.parts, self.counts = parts, counts
        self.fetch = functools.partial(_fetch, [part.fetch for part in parts])
        self._starts = np.cumsum([0, *map(len, parts)])
        mixed = (f"{count:,} of {part.name}" for part, count in zip(parts, counts, strict=True))
        self.name = f"a mixture of {' and '.join(mixed)}"

    @property
    def epoch_length(self) -> int:
        """Returns how many images an epoch has."""
        return sum(self.counts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def fellows(self, index: int) -> range:
        """Returns the images of the source from which one comes."""
        number, _ = self.part(index)
        return range(int(self._starts[number]), int(self._starts[number + 1]))

    def part(self, index: int) -> tuple[int, int]:
        """Returns the number of the source from which an image comes, and its place there."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, int(index - self._starts[number])

    def locate(self, index: int) -> tuple[tuple[int, Any], int]:
        """Returns the number of a source with what it has located, and -1: there is no label."""
        number, place = self.part(index)
        return (number, self.parts[number].locate(place)[0]), -1

    def describe(self, index: int) -> str:
        """Returns the name of one image in its source."""
        number, place = self.part(index)
        return self.parts[number].describe(place)

    def relative_name(self, index: int) -> str:
        """Returns the share of its source, and the name of one image there."""
        number, place = self.part(index)
        return f"{self.counts[number]} {self.parts[number].relative_name(place)}"

    def stamps(self) -> Iterator[str]:
        """Yields those of all sources, and their shares."""
        for part, count in zip(self.parts, self.counts, strict=True):
            yield str(count)
            yield from part.stamps()


def _fetch(fetches: Sequence[Callable[[Any], Any]], located: tuple[int, Any]) -> Any:
    number, of_part = located
    return fetches[number](of_part)


def epoch_length(source: Source | TfdsStream) -> int:
    """Returns how many images an epoch of a source has."""
    return source.epoch_length if isinstance(source, MixedSource) else len(source)


def open_known(data: Section, training: Source | TfdsStream) -> Source | TfdsStream:
    """Opens what a teacher is measured on: the training images, or beside a mixture `data.source`.

    Raises:
      UserError: if it cannot be opened.
    """
    if not data.mixture or not data.source:
        return training
    return _open(data.source, data, data.max_per_class)


def open_training(data: Section) -> Source | TfdsStream:
    """Opens the images that a run learns from: `data.mixture`, or else `data.source`.

    Raises:
      UserError: if a source cannot be opened, or a mixture is none.
    """
    if not data.mixture:
        return _open(data.source, data, data.max_per_class)
    entries = parse(data.mixture)
    parts = [_open(spec, data) for _, spec in entries]
    for (_, spec), part in zip(entries, parts, strict=True):
        if isinstance(part, TfdsStream):
            raise UserError(
                f"data.mixture has {spec!r}, which has no random access; prepare it with "
                "--file_format=array_record"
            )
    length = data.mixture_epoch or sum(map(len, parts))
    counts = shares(length, [share for share, _ in entries])
    if not all(counts):
        least = entries[counts.index(0)][1]
        raise UserError(
            f"data.mixture={data.mixture!r} leaves no image of {least} in an epoch of {length:,}; "
            "raise its share, or data.mixture_epoch"
        )
    return MixedSource(parts, counts)


def _open(spec: str, data: Section, max_per_class: int = 0) -> Source | TfdsStream:
    return open_source(
        spec,
        data.split,
        data_dir=data.data_dir,
        max_per_class=max_per_class,
        channels=data.channels,
        key="data.split",
    )


def parse(text: str) -> list[tuple[float, str]]:
    """Returns the shares and the sources of a mixture as a config writes it.

    Raises:
      UserError: if it is none.
    """
    found = []
    for entry in filter(None, (entry.strip() for entry in text.split(";"))):
        share, colon, spec = (part.strip() for part in entry.partition(":"))
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        if not (colon and spec and 0 < number < float("inf")):
            raise UserError(
                f'data.mixture={text!r} has the entry {entry!r}; write "SHARE: SOURCE; SHARE: '
                'SOURCE", with shares above 0'
            )
        found.append((number, spec))
    return found


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divides a number by weights: rounded down, and what is left to the largest remainders."""
    exact = np.array(weights, float) / sum(weights) * total
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts.tolist()
