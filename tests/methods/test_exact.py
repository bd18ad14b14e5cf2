"""What is said to be exact multiplies float32 exactly on every device, whatever the default is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import inexact_products
from tiny import tiny_batch, tiny_config, tiny_plan

from ibot_jax.config.plan import make_plan
from ibot_jax.evaluate.features.extract import make_feature_fn
from ibot_jax.evaluate.measures import neighbours, propagation
from ibot_jax.evaluate.online import _make_outputs
from ibot_jax.evaluate.probes import (
    linear_sweep,
    patch_bank,
    pixel_classes,
    segmentation_head,
    softmax_regression,
)
from ibot_jax.evaluate.tasks import copydetection, retrieval
from ibot_jax.finetune import config as finetune_config
from ibot_jax.finetune import step as finetune_step
from ibot_jax.losses import class_tokens
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import make_init, make_train_step
from ibot_jax.weights.finetuned import build_classifier
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model

IMAGES = np.zeros((8, 16, 16, 3), np.uint8)
ROWS, LABELS = np.ones((16, 6), np.float32), np.arange(16) % 4
MESH = make_mesh(jax.devices()[:2])


@functools.cache
def model():
    return untrained(Model(tiny_config(), "model"), head=True)


def linear_layer():
    layer = segmentation_head.start(6, 4, jax.random.key(0), batch_norm=True)

    def loss(head, running, tokens, labels):
        return segmentation_head.loss(segmentation_head.logits(head, running, tokens), labels)

    return jax.grad(loss), *layer, jnp.ones((2, 4, 2, 6)), jnp.ones((2, 16, 8), jnp.uint8)


def patch_votes():
    bank = patch_bank.PatchBank(
        jnp.asarray(ROWS).reshape(2, 2, 4, 6), jnp.ones((2, 2, 4, 4), jnp.uint16)
    )
    tell = functools.partial(patch_bank.votes, k=3, temperature=0.1, mesh=MESH)
    return tell, bank, ROWS.reshape(1, 4, 4, 6)


def sweep(make):
    variants = (linear_sweep.Variant("cls", 1),)
    what = linear_sweep.Sweep(variants, (3,), (0.1, 0.2), 2, 4, 16, 1, 1)
    state = linear_sweep.make_init(what, 6)(jax.random.key(0))
    first = state if make is linear_sweep.make_train_step else state.params
    return make(what, MESH), first, jnp.asarray(ROWS), jnp.asarray(LABELS)


def solver():
    data = {"features": jnp.asarray(ROWS), "labels": jnp.asarray(LABELS)}
    start = {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(4)}
    return softmax_regression._solver(MESH, 8, 5), start, data, 0.1


def votes():
    rank = neighbours.make_rank(MESH, (3,), (0.1,), 4)

    def best(*arguments):
        return list(rank(*arguments).values())

    numbers = jnp.asarray(LABELS), jnp.asarray(LABELS)
    return best, jnp.asarray(ROWS), jnp.asarray(LABELS), jnp.asarray(ROWS), numbers


def propagated():
    frame, labels = jnp.ones((3, 4, 6)), jnp.ones((3, 4, 2))

    def follow(frame, labels):
        memory = propagation.remember_first(frame, labels, 2)
        found = propagation.propagate(memory, frame, radius=1, top_k=2, temperature=0.1)
        return propagation.decide(propagation.remember(memory, frame, found).labels[1], (12, 16))

    return follow, frame, labels


def features(kind):
    described, params = model()
    return make_feature_fn(described, kind, 2), params, IMAGES


def described():
    found, params = model()
    return retrieval.make_describe(found, (1, 0.71)), params, np.zeros((20, 24, 3), np.uint8)


def measured(dtype):
    params = model()[1]
    centers = {"class": jnp.zeros(12), "patch": jnp.zeros(12)}
    return (
        _make_outputs(Model(tiny_config(dtype=dtype), "model")),
        params | {"centers": centers},
        IMAGES,
    )


def attention():
    found, params = model()
    return found.last_attention, params, IMAGES


def class_loss():
    def loss(logits):
        return class_tokens.class_loss(logits, jnp.full((2, 2, 12), 1 / 12), 0.1).sum()

    return jax.grad(loss), jnp.ones((2, 4, 12))


DINOV2 = dict(
    method="dinov2",
    loss__targets="sinkhorn",
    loss__koleo_weight=0.1,
    head__separate=True,
    head__shared=False,
    head__shared_teacher=False,
)


def pretraining(dtype, **changes):
    """In bfloat16, too: losses are summed, and the means that move the centers made, in float32."""
    config = tiny_config(dtype=dtype, **changes)
    plan, mesh = tiny_plan(config), make_mesh(jax.devices()[:1])
    state = jax.eval_shape(make_init(config, plan), jax.random.key(0))
    return make_train_step(config, plan, mesh), state, tiny_batch(config), jax.random.key(0)


def finetuning(dtype):
    recipe, described = finetune_config.get_config(), tiny_config(dtype=dtype)
    recipe.update(batch_size=8, duration="2 epochs")
    recipe.optim.warmup = "0 epochs"
    plan = make_plan(recipe, 16)
    classifier = build_classifier(described, {"classes": 4, "projection": 0})
    init = finetune_step.make_init(recipe.optim, plan, classifier, (16, 16), (16, 16, 3))
    mean, std = described.data.mean, described.data.std
    sections, rates = (recipe.optim, recipe.loss), dict(drop_path=0.2, erase=0.25)
    step = finetune_step.make_train_step(*sections, plan, classifier, mean, std, **rates)
    rank = finetune_step.make_rank_fn(classifier, mean, std)

    def train_and_test(state, batch, key):
        return rank(step(state, batch, key)[0].params, batch["images"])

    state = jax.eval_shape(init, jax.random.key(0), model()[1])
    batch = {"images": IMAGES, "labels": LABELS[:8]}
    return train_and_test, state, batch, jax.random.key(0)


FUNCTIONS = {
    "k-NN": votes,
    "logistic regression": solver,
    "logistic regression's ranking": lambda: (
        functools.partial(softmax_regression._rank, number=3),
        jnp.zeros((6, 4)),
        jnp.zeros(4),
        ROWS,
    ),
    "sweep's step": lambda: sweep(linear_sweep.make_train_step),
    "sweep's hits": lambda: sweep(linear_sweep.make_count),
    "linear layer on patches": linear_layer,
    "k-NN of patches": patch_votes,
    "classes of pixels": lambda: (lambda x: pixel_classes.decide(x, 16), jnp.ones((1, 4, 4, 3))),
    "propagation": propagated,
    "copy detection": lambda: (copydetection.rank, ROWS, ROWS),
    "copies' features": lambda: (copydetection.make_copy_fn(model()[0]), model()[1], IMAGES),
    "retrieval's features": described,
    "retrieval's similarity": lambda: (retrieval.similarity, ROWS, ROWS),
    **{kind: functools.partial(features, kind) for kind in ("cls", "mean", "cls+mean", "all")},
    "measured in training": lambda: measured("float32"),
    "measured in training, bfloat16": lambda: measured("bfloat16"),
    "attention": attention,
    "class loss": class_loss,
    "fine-tuning": lambda: finetuning("float32"),
    "fine-tuning in bfloat16": lambda: finetuning("bfloat16"),
    "pre-training": lambda: pretraining("float32"),
    "pre-training in bfloat16": lambda: pretraining("bfloat16"),
    "pre-training by dinov2": lambda: pretraining("float32", **DINOV2),
    "pre-training by dinov2 in bfloat16": lambda: pretraining("bfloat16", **DINOV2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_multiplied_exactly(name):
    assert not inexact_products(*FUNCTIONS[name]())


def test_an_inexact_product_is_found_wherever_it_lies():
    """In a loop, behind jit, in a gradient; and exact ones and bfloat16 are none."""

    @jax.jit
    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: x @ x, x)

    x = jnp.ones((4, 4))
    assert inexact_products(loop, x)
    assert len(inexact_products(jax.grad(lambda x: (x @ x).sum()), x)) >= 2
    assert inexact_products(lambda x: jnp.einsum("ij,kj->ik", x, x, precision="high"), x)
    assert not inexact_products(lambda x: jnp.matmul(x, x, precision="highest"), x)
    assert not inexact_products(loop, x.astype(jnp.bfloat16))
