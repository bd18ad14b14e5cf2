"""Batches to train a classifier on: one random view of each image, and its label."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.data.draw.crops import draw_crop, largest_shrink
from ibot_jax.data.draw.rand_augment import RandAugment
from ibot_jax.data.make.bad_images import BadImages
from ibot_jax.data.make.chunks import Request
from ibot_jax.data.make.examples import COLORS, CROPS, Fetch, stream
from ibot_jax.data.pipeline import Batch, task_batches
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.pictures import joined, planes
from ibot_jax.data.pixels.resize import check_method, crop_and_resize
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.parallel.shares import Rows


class MakeLabelledView:
    """Makes a view: a random crop, flipped or not, changed by RandAugment; a `workers.Task`."""

    def __init__(
        self,
        fetch: Fetch,
        seed: int,
        size: tuple[int, int],
        mean: tuple[float, ...],
        decoding: Decoding,
        data: Section,
    ):
        """Prepares it.

        Args:
          fetch: of the source.
          seed: of the run.
          size: height and width of the view, pixels.
          mean: of each channel, in [0, 1].
          decoding: how files become pixels.
          data: with `scale`, `aspect`, `flip`, `resize` and the section `rand_augment`.
        """
        self._fetch = fetch
        self._seed = seed
        self._decoding = decoding
        self._shape = (*size, decoding.channels)
        self._scale, self._aspect = tuple(data.scale), tuple(data.aspect)
        self._flip = data.flip
        self._resize = data.resize
        fill = tuple(round(255 * level) for level in mean)
        self._rand_augment = RandAugment(
            data.rand_augment.ops,
            data.rand_augment.magnitude,
            data.rand_augment.magnitude_std,
            fill,
        )

    def blank(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns an example that is all zero."""
        return np.zeros(self._shape, np.uint8), np.zeros((), np.int32)

    def __call__(
        self, out: tuple[np.ndarray, np.ndarray], located: Any, epoch: int, index: int, label: int
    ) -> str:
        """Makes one example; returns what is odd about its image, "" if nothing is.

        Args:
          out: arrays as of `blank`, which are filled in: the view [H, W, C] uint8, and its label.
          located: what `Source.locate` returned.
          epoch: of the run.
          index: of the example; randomness depends on (seed, epoch, index) alone.
          label: of the image.
        """
        crop_rng = stream(self._seed, epoch, index, CROPS)
        image = EncodedImage(self._fetch(located), self._decoding)
        box = draw_crop(crop_rng, image.height, image.width, self._scale, self._aspect)
        size = self._shape[:2]
        shrink = 1 if self._resize == "pillow" else largest_shrink([box], [size])
        parts = planes(image.decode(shrink, [box]), self._decoding.apart)
        view = joined([crop_and_resize(part, box, size, self._resize, shrink) for part in parts])
        if crop_rng.random() < self._flip:
            view = view[:, ::-1]
        if self._rand_augment.ops:
            color_rng = stream(self._seed, epoch, index, COLORS)
            view = np.asarray(self._rand_augment(Image.fromarray(view), color_rng))
        out[0][:] = view.reshape(self._shape)
        out[1][...] = label
        return image.note


def labelled_batches(
    source: Source | TfdsStream,
    size: tuple[int, int],
    mean: tuple[float, ...],
    decoding: Decoding,
    plan: Plan,
    rows: Rows,
    *,
    seed: int,
    data: Section,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Returns this process's share of every batch from `start_step` to the end of the run.

    Order, shares, and what happens to images that cannot be read are those of
    `pipeline.train_batches`.

    Args:
      source: labelled.
      size: height and width of the views, pixels.
      mean: of each channel, in [0, 1].
      decoding: how files become pixels.
      plan: of the run.
      rows: of a batch that this process makes, b of them.
      seed: of the run.
      data: as of `MakeLabelledView`, and with `workers` and `max_bad_share`.
      start_step: of the first batch.

    Returns:
      An iterator of dicts: images [b, H, W, C] uint8, labels [b] int32.
    """
    check_method(data.resize)

    def arguments(request: Request) -> tuple:
        return request.located, request.epoch, request.index, request.label

    return task_batches(
        source,
        MakeLabelledView(source.fetch, seed, size, mean, decoding, data),
        arguments,
        ("images", "labels"),
        plan,
        rows,
        BadImages(len(source), data.max_bad_share),
        seed=seed,
        workers=data.workers,
        steps=range(start_step, plan.total_steps),
    )
