"""Many linear classifiers trained at once on the same features: stacked, and pure functions.

They differ in the learning rate and in which features they see. Each device holds some
of the learning rates and sees the whole batch; so features are gathered, which are few, and no
gradient ever crosses devices.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ibot_jax.parallel.layouts import replicated

Array = jax.Array
Stacks = dict[str, dict[str, Array]]  # {variant: {"kernel": [S, F, C], "bias": [S, C]}}

MOMENTUM = 0.9
_INIT_STD = 0.01  # the original's


@dataclasses.dataclass(frozen=True)
class Variant:
    """Which features a classifier sees.

    Attributes:
      kind: "cls", "mean", "cls+mean" or "pixels", see `features.make_feature_fn`.
      blocks: how many of the last blocks.
    """

    kind: str
    blocks: int

    @property
    def name(self) -> str:
        """Returns a name for it, "cls+mean-4"."""
        return f"{self.kind}-{self.blocks}"

    def columns(self, features: Array, widths: Sequence[int]) -> Array:
        """Cuts its features out of all.

        Args:
          features: [B, 2 * sum(widths)] of the kind "all", or [B, F] of the kind "pixels".
          widths: of the blocks whose class tokens and means are in `features`.

        Returns:
          [B, F] as `make_feature_fn` makes them of this kind.
        """
        if self.kind == "pixels":
            return features
        classes, means = jnp.split(features, 2, axis=1)
        skipped = sum(widths[: len(widths) - self.blocks])
        parts = {
            "cls": [classes[:, skipped:]],
            "mean": [means[:, skipped:]],
            "cls+mean": [classes[:, skipped:], means[:, -widths[-1] :]],
        }
        return jnp.concatenate(parts[self.kind], axis=1)


@flax.struct.dataclass
class SweepState:
    """All classifiers and their momentum.

    Attributes:
      step: [] int32, steps done.
      params: {variant: {"kernel": [S, F, C], "bias": [S, C]}} float32.
      momentum: like `params`, sums of gradients as PyTorch's SGD has them.
    """

    step: Array
    params: Stacks
    momentum: Stacks


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is trained.

    Attributes:
      variants: which features.
      widths: of the blocks of which the features are, at least as many as any variant's.
      rates: the learning rates for 256 images.
      slots: how many classifiers a stack has, S: at least one for each rate, and as many on each
        device; those that are left over learn nothing.
      num_classes: C.
      batch_size: images a step.
      steps_per_epoch: whole batches.
      epochs: of the training; the rates fall along a cosine, epoch by epoch, to 0.
    """

    variants: tuple[Variant, ...]
    widths: tuple[int, ...]
    rates: tuple[float, ...]
    slots: int
    num_classes: int
    batch_size: int
    steps_per_epoch: int
    epochs: int


def make_init(sweep: Sweep, num_features: int) -> Callable[[Array], SweepState]:
    """Returns the function from a key to the first state.

    Kernels are normal with standard deviation 0.01, each of its own, biases 0; no classifier
    depends on which others there are.
    """

    def init(rng: Array) -> SweepState:
        params = {}
        for variant in sweep.variants:
            shape = (1, num_features)
            width = jax.eval_shape(
                lambda x, variant=variant: variant.columns(x, sweep.widths),
                jax.ShapeDtypeStruct(shape, jnp.float32),
            ).shape[1]
            keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(sweep.slots))
            draw = jax.vmap(
                lambda key, width=width: jax.random.normal(key, (width, sweep.num_classes))
            )
            params[variant.name] = {
                "kernel": _INIT_STD * draw(keys),
                "bias": jnp.zeros((sweep.slots, sweep.num_classes)),
            }
        return SweepState(jnp.int32(0), params, jax.tree.map(jnp.zeros_like, params))

    return init


def make_train_step(
    sweep: Sweep, mesh: Mesh
) -> Callable[[SweepState, Array, Array], tuple[SweepState, dict[str, Array]]]:
    """Returns the function from (state, features [B, F], labels [B]) to the next one.

    Its other result is {variant: [S]}, the mean cross-entropy of each classifier.
    """

    def train_step(state, features, labels):
        features, labels = _everywhere((features, labels), mesh)
        inputs = {v.name: v.columns(features, sweep.widths) for v in sweep.variants}

        def total_loss(params):
            losses = {
                name: _cross_entropy(_logits(params[name], columns), labels)
                for name, columns in inputs.items()
            }
            # No classifier's loss depends on another's parameters.
            return sum(jnp.sum(x) for x in losses.values()), losses

        gradients, losses = jax.grad(total_loss, has_aux=True)(state.params)
        momentum = jax.tree.map(lambda m, g: MOMENTUM * m + g, state.momentum, gradients)
        rates = _rates_now(sweep, state.step)
        params = jax.tree.map(
            lambda p, m: p - rates.reshape(-1, *(1,) * (p.ndim - 1)) * m, state.params, momentum
        )
        return SweepState(state.step + 1, params, momentum), losses

    return train_step


def make_count(
    sweep: Sweep, mesh: Mesh
) -> Callable[[Stacks, Array, Array], dict[str, tuple[Array, Array]]]:
    """Returns the function from (params, features [B, F], labels [B]) to hits.

    These are {variant: ([S], [S])} int32: how many labels are first, and how many are among the
    first five, by each classifier. Of equal logits the lower class comes first. A label of -1
    counts nothing.
    """

    def count(params, features, labels):
        features, labels = _everywhere((features, labels), mesh)
        classes = jnp.arange(sweep.num_classes)
        hits = {}
        for variant in sweep.variants:
            logits = _logits(params[variant.name], variant.columns(features, sweep.widths))
            own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[None, :, None], axis=-1)
            ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
            place = jnp.where(labels >= 0, ahead.sum(axis=-1), sweep.num_classes)  # [S, B]
            hits[variant.name] = tuple(
                jnp.sum(place < min(n, sweep.num_classes), axis=1) for n in (1, 5)
            )
        return hits

    return count


def _logits(stack: dict[str, Array], features: Array) -> Array:
    """Returns the logits of all classifiers of a stack, [S, B, C]."""
    logits = jnp.einsum("bf,sfc->sbc", features, stack["kernel"], precision="highest")
    return logits + stack["bias"][:, None]


def _cross_entropy(logits: Array, labels: Array) -> Array:
    """Returns the mean over the batch, [S], of logits [S, B, C] and labels [B]."""
    labels = jnp.broadcast_to(labels, logits.shape[:-1])
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean(axis=1)


def _rates_now(sweep: Sweep, step: Array) -> Array:
    epoch = step // sweep.steps_per_epoch
    scale = sweep.batch_size / 256 * 0.5 * (1 + jnp.cos(jnp.pi * epoch / sweep.epochs))
    rates = (*sweep.rates, *(0.0,) * (sweep.slots - len(sweep.rates)))
    return scale * jnp.asarray(rates, jnp.float32)


def _everywhere(tree, mesh: Mesh):
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))
