"""The fine-tuning step: one pure function (state, batch, rng) -> (state, metrics)."""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax

from ibot_jax.config.plan import Plan, peak_rate
from ibot_jax.config.section import Section
from ibot_jax.finetune import mixing
from ibot_jax.finetune.learned import ALL, Learned
from ibot_jax.finetune.optimizer import make_optimizer
from ibot_jax.kernels.linear import matmul_precision
from ibot_jax.methods.step import Metrics
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.block import drop_path_gains
from ibot_jax.models.classifier import Classifier
from ibot_jax.models.parameters import Params, for_size
from ibot_jax.models.pixels import normalize
from ibot_jax.optim.freezing import join
from ibot_jax.optim.schedules import Schedule, cosine_schedule

Array = jax.Array
RANKED = 5  # classes kept of a ranking, for top-5


@flax.struct.dataclass
class FinetuneState:
    """All that fine-tuning carries from step to step, arrays only.

    Attributes:
      step: [] int32, optimiser steps done.
      params: {"backbone": ..., "classifier": ..., and by option "projection" and "lora"}.
      opt_state: of the Optax chain, of what learns alone.
      finite: [] bool, False once a loss or a gradient was not; from then on steps change nothing.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    finite: Array


# (state, batch, key) -> (next state, metrics)
TrainStep = Callable[[FinetuneState, dict[str, Array], Array], tuple[FinetuneState, Metrics]]


def make_schedule(optim: Section, plan: Plan) -> Schedule:
    """Returns the learning rate of the classifier by step."""
    peak = peak_rate(optim.lr, plan.batch_size)
    warmup = plan.steps("optim.warmup", optim.warmup)
    return cosine_schedule(peak, optim.min_lr, plan.total_steps, warmup)


def _make_optimizer(
    optim: Section, plan: Plan, classifier: Classifier
) -> optax.GradientTransformationExtraArgs:
    return make_optimizer(
        lr=make_schedule(optim, plan),
        weight_decay=optim.weight_decay,
        layer_decay=optim.layer_decay,
        geometry=geometry_of(classifier.backbone),
    )


def make_init(
    optim: Section,
    plan: Plan,
    classifier: Classifier,
    trained: tuple[int, int],
    shape: tuple[int, int, int],
    learned: Learned = ALL,
) -> Callable[[Array, Params], FinetuneState]:
    """Returns the function from a key and pretrained parameters to the first state.

    Positions are resampled once to the size of the images, where training then goes on.

    Args:
      optim: the optimiser.
      plan: of the fine-tuning.
      classifier: the module.
      trained: height and width of the images in pre-training.
      shape: height, width and channels of the images now.
      learned: what of the model learns.

    Returns:
      A function of a key and {"backbone": ..., "head": ... if the projection is kept}, pure.
    """
    backbone = classifier.backbone
    tx = _make_optimizer(optim, plan, classifier)

    def init(rng: Array, pretrained: Params) -> FinetuneState:
        params = dict(classifier.init(rng, jnp.zeros((1, *shape)))["params"])
        params["backbone"] = for_size(pretrained["backbone"], backbone, trained, shape[:2])
        if classifier.projection_dim:
            params["projection"] = pretrained["head"]["mlp_0"]
        params = learned.lora.init(jax.random.fold_in(rng, 2), params)
        ours, _ = learned.split(params)
        return FinetuneState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(ours),
            finite=jnp.ones((), bool),
        )

    return init


def make_train_step(
    optim: Section,
    loss: Section,
    plan: Plan,
    classifier: Classifier,
    mean: tuple,
    std: tuple,
    *,
    drop_path: float,
    erase: float,
    learned: Learned = ALL,
) -> TrainStep:
    """Returns the training step, a pure function to be jitted with its state donated.

    Its arguments: the state; a batch of `images` [B, H, W, C] uint8 and `labels` [B] int32; and the
    run's key, from which it derives this step's by the state's step. It returns the next state and
    the metrics `loss`, `lr`, `grad_norm` and `finite`, scalars. A state that is not `finite` comes
    back as it was.

    Args:
      optim: the optimiser.
      loss: labels, and how images are mixed.
      plan: of the fine-tuning.
      classifier: the module.
      mean: of each channel, for pixels in [0, 1].
      std: likewise.
      drop_path: stochastic depth of the last block.
      erase: probability of a box of noise.
      learned: what of the model learns.
    """
    schedule = make_schedule(optim, plan)
    tx = _make_optimizer(optim, plan, classifier)
    depth = geometry_of(classifier.backbone).depth

    def loss_fn(ours: Params, others: Params, images: Array, targets: Array, gains: Array) -> Array:
        params = learned.lora.merged(join(ours, others))
        logits = classifier.apply({"params": params}, images, gains)
        return optax.softmax_cross_entropy(logits, targets).mean()

    def train_step(state: FinetuneState, batch: dict[str, Array], rng: Array):
        clock = state.step.astype(jnp.float32)
        augment_rng, gains_rng = jax.random.split(jax.random.fold_in(rng, state.step))
        images = normalize(batch["images"], mean, std, jnp.float32)
        images, targets = _augment(
            loss, erase, augment_rng, images, batch["labels"], classifier.num_classes
        )
        ours, others = learned.split(state.params)
        gains = drop_path_gains(gains_rng, drop_path, depth, images.shape[:1])
        with jax.default_matmul_precision(matmul_precision(classifier.dtype)):
            value, gradients = jax.value_and_grad(loss_fn)(ours, others, images, targets, gains)
        updates, opt_state = tx.update(gradients, state.opt_state, ours, step=clock)
        moved = state.replace(
            step=state.step + 1,
            params=join(optax.apply_updates(ours, updates), others),
            opt_state=opt_state,
        )
        # A finite loss can have gradients that are not, and one update would spoil every tensor.
        grad_norm = optax.tree.norm(gradients)
        finite = state.finite & jnp.isfinite(value) & jnp.isfinite(grad_norm)
        next_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        metrics = {"loss": value, "lr": schedule(clock), "grad_norm": grad_norm, "finite": finite}
        return next_state.replace(finite=finite), metrics

    return train_step


def make_rank_fn(
    classifier: Classifier, mean: tuple, std: tuple, learned: Learned = ALL
) -> Callable[[Params, Array], Array]:
    """Returns the function from (params, uint8 images [B, H, W, C]) to their likeliest classes.

    They are [B, min(5, K)] float32, the likeliest first. `params` are those of a state, with the
    adapters that `learned` says.
    """

    def rank(params: Params, images: Array) -> Array:
        images = normalize(images, mean, std, jnp.float32)
        with jax.default_matmul_precision(matmul_precision(classifier.dtype)):
            logits = classifier.apply({"params": learned.lora.merged(params)}, images)
        number = min(RANKED, classifier.num_classes)
        return jax.lax.top_k(logits, number)[1].astype(jnp.float32)

    return rank


def _augment(
    loss: Section, erase: float, rng: Array, images: Array, labels: Array, num_classes: int
) -> tuple[Array, Array]:
    """Erases boxes, smooths labels and mixes pairs; returns images and targets [B, K]."""
    erase_rng, mix_rng = jax.random.split(rng)
    if erase:
        images = mixing.random_erase(erase_rng, images, erase)
    targets = mixing.soft_labels(labels, num_classes, loss.label_smoothing)
    if loss.mixup or loss.cutmix:
        weights = mixing.draw_weights(
            mix_rng,
            images.shape[:3],
            mixup=loss.mixup,
            cutmix=loss.cutmix,
            cutmix_share=loss.cutmix_share,
        )
        images, targets = mixing.mix(images, targets, weights)
    return images, targets
