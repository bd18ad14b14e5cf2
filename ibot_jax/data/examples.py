"""What example number n of a run is: which image, which crops and colours, which masks.

Everything here is a stateless function of (seed, epoch, example index), so that a run can be
repeated, resumed anywhere, and spread over any number of processes without changing.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from ibot_jax.config import Plan
from ibot_jax.data.masks import draw_mask
from ibot_jax.data.views import central_view, make_views, view_settings

# Purposes of randomness: no two share a stream.
ORDER, CROPS, COLORS, MASKS, STAND_INS = range(5)

Example = tuple[np.ndarray, np.ndarray, np.ndarray]
Load = Callable[[Any], Image.Image]


def stream(seed: int, epoch: int, index: int, purpose: int) -> np.random.Generator:
    """Returns the random stream for one purpose of one example in one epoch."""
    return np.random.default_rng([seed, epoch, index, purpose])


class Positions:
    """Where in the run the examples of one process lie.

    A position counts the examples of this process from the first step of the run on.
    """

    def __init__(self, plan: Plan, process_index: int, process_count: int):
        self.rows = plan.batch_size // process_count  # of this process in a batch
        self._plan = plan
        self._first_row = process_index * self.rows

    def locate(self, position: int) -> tuple[int, int, int]:
        """Returns step, epoch, and place in the epoch (over all processes) of an example."""
        step, row = divmod(int(position), self.rows)
        epoch, step_of_epoch = divmod(step, self._plan.steps_per_epoch)
        return step, epoch, step_of_epoch * self._plan.batch_size + self._first_row + row


class EpochOrder:
    """The order of the examples, a permutation for each epoch."""

    def __init__(self, seed: int, num_examples: int):
        self._lock = threading.Lock()  # a late thread would compute it a second time
        # Two are kept: at the boundary of epochs, threads work on both.
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: stream(seed, epoch, 0, ORDER).permutation(num_examples)
        )

    def __call__(self, epoch: int) -> np.ndarray:
        """Returns [num_examples] int64, the order of one epoch."""
        with self._lock:
            return self._permutation(epoch)


class MakeExample:
    """Makes training examples from what a source locates; a `workers.Task`."""

    def __init__(self, load: Load, config: ConfigDict):
        data = config.data
        grid = tuple(side // config.model.patch_size for side in data.global_size)
        self._load = load
        self._seed = config.seed
        self._globals, self._locals = view_settings(data)
        self._shapes = (
            (data.global_views, *data.global_size, data.channels),
            (data.local_views, *data.local_size, data.channels),
            (data.global_views, *grid),
        )
        masks = config.masks
        self._mask_settings = (masks.kind, grid, tuple(masks.ratios), tuple(masks.variances))

    def __call__(self, located: Any, epoch: int, index: int, masked: bool) -> Example:
        """Makes one example.

        Args:
          located: what `Source.locate` returned.
          epoch: of the run.
          index: of the example; randomness depends on (seed, epoch, index) alone.
          masked: whether masks are drawn; if not, they are all False.

        Returns:
          global views [G, H, W, C] uint8, local views [L, H', W', C] uint8, masks [G, h, w] bool.
        """
        crop_rng, color_rng, mask_rng = (
            stream(self._seed, epoch, index, purpose) for purpose in (CROPS, COLORS, MASKS)
        )
        settings = self._globals + self._locals
        views = make_views(self._load(located), settings, crop_rng, color_rng)
        global_views, local_views, masks = self.blank()
        for target, view in zip((*global_views, *local_views), views, strict=True):
            target[:] = np.asarray(view).reshape(target.shape)
        if masked:
            for mask in masks:
                mask[:] = draw_mask(mask_rng, *self._mask_settings)
        return global_views, local_views, masks

    def blank(self) -> Example:
        """Returns an example that is all zero."""
        dtypes = (np.uint8, np.uint8, bool)
        return tuple(map(np.zeros, self._shapes, dtypes))


class MakeCentralView:
    """Makes the one undistorted view that evaluations use; a `workers.Task`."""

    def __init__(self, load: Load, resize: int, size: tuple[int, int], channels: int):
        self._load = load
        self._resize = resize
        self._shape = (*size, channels)

    def __call__(self, located: Any) -> tuple[np.ndarray]:
        """Returns the view, [H, W, C] uint8, of what `Source.locate` returned."""
        view = central_view(self._load(located), self._resize, self._shape[:2])
        return (np.asarray(view).reshape(self._shape),)

    def blank(self) -> tuple[np.ndarray]:
        """Returns a view that is all zero."""
        return (np.zeros(self._shape, np.uint8),)
