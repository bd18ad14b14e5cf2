"""Random crops of labelled images, from which classifiers of frozen features learn."""

import argparse
import importlib.util
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ibot_jax.cli import flags
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.data.labelled import labelled_batches
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.evaluate.common.opening import Views
from ibot_jax.weights.model import Model


def add_crop_options(group: argparse._ActionsContainer) -> None:
    """Adds the flags that say how crops are drawn."""
    group.add_argument(
        "--scale",
        type=flags.share,
        default=0.08,
        metavar="X",
        help="smallest share of an image's area that a crop takes (default: 0.08)",
    )
    group.add_argument(
        "--flip",
        type=flags.share,
        default=0.5,
        metavar="P",
        help="probability of mirroring (default: 0.5; digits want 0)",
    )


def crop_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what determines crops, see `labelled_batches`; JSON types."""
    fast = importlib.util.find_spec("cykooz_resizer")  # not there on every machine
    return dict(
        scale=(args.scale, 1.0),
        aspect=(3 / 4, 4 / 3),
        flip=args.flip,
        resize="simd" if fast else "pillow",
        rand_augment=dict(ops=0, magnitude=0.0, magnitude_std=0.0),
        max_bad_share=0.01,
    )


def crop_batches(
    source: Source | TfdsStream,
    views: Views,
    model: Model,
    plan: Plan,
    seed: int,
    settings: dict[str, Any],
) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
    """Returns the function from a step to this process's batches from there on.

    Args:
      source: the images, labelled.
      views: their size, how files become pixels, which rows are this process's, and who makes them.
      model: whose mean colour fills what is missing.
      plan: how many steps of how many images.
      seed: of order and crops.
      settings: of `crop_settings`.
    """

    def batches(start_step):
        yield from labelled_batches(  # as a generator: it fails where batches are agreed on
            source,
            views.size,
            model.config.data.mean,
            views.decoding,
            plan,
            views.rows,
            seed=seed,
            data=_as_section(settings | {"workers": views.workers}),
            start_step=start_step,
        )

    return batches


def _as_section(values: dict[str, Any]) -> Section:
    """Returns nested values as attributes."""
    nested = {k: _as_section(v) if isinstance(v, dict) else v for k, v in values.items()}
    return types.SimpleNamespace(**nested)
