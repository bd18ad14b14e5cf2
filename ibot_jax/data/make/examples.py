"""What example number n of a run is: which image, which crops and colours, which masks.

Everything here is a stateless function of (seed, epoch, example index), so that a run can be
repeated, resumed anywhere, and spread over any number of processes without changing.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ibot_jax.config.masking import DEALT
from ibot_jax.config.section import Section
from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.draw.crops import largest_shrink
from ibot_jax.data.draw.dealt_masks import deal, draw_dealt_mask
from ibot_jax.data.draw.masks import draw_mask
from ibot_jax.data.draw.views import draw_views, view_settings
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.host_colors import apply_color
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.pixels.pictures import joined, on_bands, on_picture, planes
from ibot_jax.data.pixels.resize import Box, crop_and_resize
from ibot_jax.kernels.color_table import COLUMNS, Color

# Purposes of randomness: no two share a stream.
ORDER, CROPS, COLORS, MASKS, STAND_INS, STEPS, SIZES = range(7)

Example = tuple[np.ndarray, ...]
Fetch = Callable[[Any], bytes | np.ndarray | Excerpt]


def stream(seed: int, epoch: int, index: int, purpose: int) -> np.random.Generator:
    """Returns the random stream for one purpose of one example in one epoch."""
    return np.random.default_rng([seed, epoch, index, purpose])


class MakeExample:
    """Makes training examples from what a source locates; a `workers.Task`.

    Attributes:
      keys: names of the arrays of an example, in their order.
    """

    def __init__(
        self,
        fetch: Fetch,
        seed: int,
        data: Section,
        masks: Section,
        grid: tuple[int, int],
        gram_size: tuple[int, int] | None = None,
        gram_colors: bool = False,
    ):
        """Prepares it.

        Args:
          fetch: of the source.
          seed: of the run.
          data: how views are made.
          masks: how masks are drawn.
          grid: rows and columns of masks, those of the backbone for a global view.
          gram_size: height and width of what the gram teacher sees of a global view; None without
            a gram teacher.
          gram_colors: whether colours of these views are changed, too, as those of global views.
        """
        self._fetch = fetch
        self._seed = seed
        self._decoding = Decoding.of(data)
        self._resize = data.resize
        self._shrink_margin = data.shrink_margin
        self._color_on_host = data.augment == "host"
        global_settings, local_settings = view_settings(data)
        self._settings = global_settings + local_settings
        self._sizes = [view.size for view in self._settings]
        self._mask_kind, self._grid = masks.kind, grid  # plain values: workers get a copy
        self._ratios = tuple(masks.ratios), tuple(masks.variances)
        self._deal = masks.share, tuple(masks.range)
        self._shift = masks.shift
        self._gram_colors = gram_colors
        number, local = data.global_views, data.local_views
        arrays = {
            "global_views": ((number, *data.global_size, data.channels), np.uint8),
            "local_views": ((local, *data.local_size, data.channels), np.uint8),
            "masks": ((number, *grid), bool),
        }
        if not self._color_on_host:
            for kind, count in (("global", number), ("local", local)):
                arrays[f"{kind}_colors"] = (count, len(COLUMNS)), np.float32
        if gram_size is not None:
            arrays["gram_views"] = (number, *gram_size, data.channels), np.uint8
            self._sizes += [gram_size] * number
        self._arrays = arrays

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def blank(self) -> Example:
        """Returns an example that is all zero."""
        return tuple(np.zeros(shape, dtype) for shape, dtype in self._arrays.values())

    def __call__(
        self,
        out: Example,
        located: Any,
        epoch: int,
        index: int,
        masked: bool | np.ndarray,
        anchored: bool = True,
    ) -> str:
        """Makes one example; returns what is odd about its image, "" if nothing is.

        Args:
          out: arrays as of `blank`, which are filled in: global views [G, H, W, C] uint8, local
            views [L, H', W', C] uint8, masks [G, h, w] bool; where the accelerator is to change
            the colours, what was drawn for them: [G, 12] and [L, 12] float32; and where there is a
            gram teacher, the global views as it sees them, [G, H'', W'', C] uint8.
          located: what `Source.locate` returned.
          epoch: of the run.
          index: of the example; randomness depends on (seed, epoch, index) alone.
          masked: whether masks are drawn; if not, they are all False. Of a kind that is dealt out
            over a batch, the steps of this example's views [G, 2]; True deals them over these.
          anchored: whether views for the gram teacher are made; if not, they are all 0.
        """
        crop_rng, color_rng, mask_rng = (
            stream(self._seed, epoch, index, purpose) for purpose in (CROPS, COLORS, MASKS)
        )
        image = EncodedImage(self._fetch(located), self._decoding)
        boxes, colors = draw_views(image.height, image.width, self._settings, crop_rng, color_rng)
        # Pillow's views are the original's to the byte, and so must be what they are cut from.
        margin = 0 if self._resize == "pillow" else self._shrink_margin
        arrays = dict(zip(self._arrays, out, strict=True))
        gram_views = arrays.get("gram_views", ())
        seen = boxes + boxes[: len(gram_views)] if anchored else boxes
        shrink = largest_shrink(seen, self._sizes[: len(seen)], margin)
        apart = self._decoding.apart
        parts = planes(image.decode(shrink, seen), apart)

        def cut(target: np.ndarray, box: Box, color: Color | None) -> None:
            size, method = target.shape[:2], self._resize
            view = joined([crop_and_resize(part, box, size, method, shrink) for part in parts])
            if color is not None:
                change = on_bands if apart else on_picture
                view = change(view, functools.partial(apply_color, color=color))
            target[:] = view.reshape(target.shape)

        views = *arrays["global_views"], *arrays["local_views"]
        for target, box, color in zip(views, boxes, colors, strict=True):
            cut(target, box, color if self._color_on_host else None)
        for target, box, color in zip(gram_views, boxes, colors, strict=False):
            if not anchored:
                target[:] = 0
            elif not self._gram_colors:
                cut(target, box, Color(color.flip, (), False, 0.0, False))
            else:
                cut(target, box, color if self._color_on_host else None)
        self._draw_masks(arrays["masks"], mask_rng, masked)
        if not self._color_on_host:
            rows = np.reshape([color.row() for color in colors], (-1, len(COLUMNS)))
            number = len(arrays["global_views"])
            arrays["global_colors"][:], arrays["local_colors"][:] = rows[:number], rows[number:]
        return image.note

    def _draw_masks(
        self, masks: np.ndarray, rng: np.random.Generator, masked: bool | np.ndarray
    ) -> None:
        kind, grid = self._mask_kind, self._grid
        if masked is False:
            masks[:] = False
        elif kind in DEALT:
            steps = deal(rng, len(masks), *self._deal) if masked is True else masked
            for mask, step in zip(masks, steps, strict=True):
                mask[:] = draw_dealt_mask(rng, kind, grid, step, self._shift)
        else:
            for mask in masks:
                mask[:] = draw_mask(rng, kind, grid, *self._ratios)


class MakeCentralView:
    """Makes the one undistorted view that evaluations use; a `workers.Task`."""

    def __init__(self, fetch: Fetch, view: CentralView, decoding: Decoding):
        self._fetch = fetch
        self._view = view
        self._decoding = decoding
        self._shape = (*view.size, decoding.channels)

    def blank(self) -> tuple[np.ndarray]:
        """Returns a view that is all zero."""
        return (np.zeros(self._shape, np.uint8),)

    def __call__(self, out: tuple[np.ndarray], located: Any) -> str:
        """Makes the view, [H, W, C] uint8, in `out`, of what `Source.locate` returned.

        Returns what is odd about the image, "" if nothing is.
        """
        image = EncodedImage(self._fetch(located), self._decoding)
        view = on_picture(image.decode(), self._view.cut, self._decoding.apart)
        out[0][:] = view.reshape(self._shape)
        return image.note
