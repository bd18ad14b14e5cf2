"""The training of attentive probes, which goes on where it was interrupted, and their accuracies.

OUT/attentive-KEY.npz keeps probes and moments, see `steps`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import Views
from ibot_jax.evaluate.features.extract import extract_batches
from ibot_jax.evaluate.probes import attentive_head, steps
from ibot_jax.evaluate.probes.attentive_head import Probe
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.parallel.layouts import replicated
from ibot_jax.screen.progress import progress


@dataclasses.dataclass(frozen=True)
class Setting:
    """What probes are trained on, and how.

    Attributes:
      patch_fn: (params, images [B, H, W, C] uint8) -> patch tokens [B, N, D] float32.
      params: its parameters, on all devices.
      mesh: the devices.
      batches: this process's batches of training images from a step on, {images, labels}.
      batch_size: images a step.
      width: D.
      num_classes: of the labels.
      rates: a learning rate for 256 images for each probe.
      decays: a weight decay for each.
      steps: of the training; the rate rises in the first tenth.
      seed: of the first weights.
    """

    patch_fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    mesh: jax.sharding.Mesh
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
    batch_size: int
    width: int
    num_classes: int
    rates: Sequence[float]
    decays: Sequence[float]
    steps: int
    seed: int


def fit(setting: Setting, folder: str, about: dict[str, Any]) -> Probe:
    """Trains the probes, or finishes their training.

    Args:
      setting: how.
      folder: where the state is kept.
      about: all that determines the outcome; JSON types only.

    Returns:
      The probes, stacked.

    Raises:
      UserError: if the state cannot be read or written.
    """
    everywhere = replicated(setting.mesh)
    start = attentive_head.make_start(setting.width, setting.num_classes, len(setting.rates))
    start = jax.jit(start, out_shardings=everywhere)
    peaks = jnp.float32(setting.rates) * setting.batch_size / 256
    decays = jnp.float32(setting.decays)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
    def step(state, params, batch):
        tokens = setting.patch_fn(params, batch["images"])
        rates = peaks * attentive_head.rate(state.step, setting.steps, setting.steps // 10)
        return attentive_head.train_step(state, tokens, batch["labels"], rates, decays)[0]

    state = steps.train(
        start(jax.random.key(setting.seed)),
        lambda state, batch, number: step(state, setting.params, batch),
        setting.batches,
        steps=setting.steps,
        kept=Kept(folder, "attentive", about),
        mesh=setting.mesh,
        what="attentive",
    )
    return state.probes


def measure(
    setting: Setting, probes: Probe, source: Source | TfdsStream, views: Views, what: str
) -> np.ndarray:
    """Returns top-1 of each probe in percent, [S].

    Raises:
      UserError: if no image can be read.
    """

    def classes(both, images):
        params, probes = both
        tokens = setting.patch_fn(params, images)
        return jax.vmap(lambda probe: probe(tokens).argmax(axis=1))(probes).T  # [B, S]

    batches = extract_batches(
        classes, (setting.params, probes), views.batches(source), setting.mesh
    )
    hits, total = np.zeros(len(setting.rates), int), 0
    for found, labels, valid in progress(batches, views.number(source), what):
        valid = valid & (labels >= 0)
        hits += (found == labels[:, None])[valid].sum(axis=0)
        total += int(valid.sum())
    if not total:
        raise UserError(f"none of the images of {source.name} can be read")
    return 100 * hits / total
