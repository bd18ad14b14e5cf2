"""What flows through each method, with a backbone that tells its inputs and heads as they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sums import Sums
from tiny import tiny_config, tiny_plan

from ibot_jax.methods import dino, distillation, ibot
from ibot_jax.methods.method import Modules, Network, Networks
from ibot_jax.methods.views import Views
from ibot_jax.models.build import build_head
from ibot_jax.models.tokens import Tokens

RNG = np.random.default_rng(0)
B, G, L, D = 3, 2, 2, 3
GRID = (8, 8)  # of 16 pixels
CONFIG = tiny_config(
    head__shared=False,
    head__shared_teacher=False,
    head__patch_prototypes=10,
    loss__class_weight=0.5,
    loss__patch_weight=2.0,
    loss__student_temp=0.2,
    loss__max_logits=500,
    loss__center_momentum=0.8,
    loss__teacher_temp_start=0.03,
    loss__teacher_temp=0.05,
    loss__teacher_patch_temp_start=0.06,
    loss__teacher_patch_temp=0.09,
    loss__teacher_temp_warmup="4 steps",
    masks__start="2 steps",
    masks__ratios=(0.1, 0.4),
    masks__variances=(0.0, 0.2),
)
PLAN = tiny_plan(CONFIG)
TEMPS = {"teacher_temp": 0.04, "teacher_patch_temp": 0.07}


def draw(*shape):
    return jnp.array(RNG.normal(size=shape), jnp.float32)


VIEWS = Views(
    draw(B, G, 16, 16, D),
    draw(B, L, 8, 8, D),
    jnp.array(RNG.random((B, G, *GRID)) < 0.4),
    draw(B, G + L, 1, 2),
)


def network(config, seed, scale, teacher=False):
    """Returns a network and parameters, whose class token is `scale` times the sum of pixels."""
    head = build_head(config.head, "float32", teacher=teacher)
    params = head.init(jax.random.key(seed), jnp.zeros((1, D)))["params"]
    return Network(Sums(), head), {"backbone": jnp.float32(scale), "head": params}


def make(method, config):
    """Returns the method, and networks with their parameters."""
    student, student_params = network(config, 0, 0.1)
    teacher, teacher_params = network(config, 1, 0.2, teacher=True)
    frozen, frozen_params = network(config, 2, 0.3)
    kinds = {"class": 12, "patch": 10}
    built = method.build(config, Modules(student, teacher, {"teacher": frozen}), PLAN)
    centers = {kind: draw(kinds[kind]) for kind in built.buffers["centers"]}
    networks = Networks(
        student_params, teacher_params, {"teacher": frozen_params}, {"centers": centers}
    )
    return built, networks


def dino_config():
    config = CONFIG.copy_and_resolve_references()
    config.head.update(shared=True, shared_teacher=True)
    return config


def class_tokens(scale, views, gains=None):
    tokens = scale * views.sum((2, 3))
    return tokens if gains is None else tokens + gains.sum((2, 3))[..., None]


def patch_tokens(views, masks=None):
    patches = views[:, :, ::2, ::2]
    return patches if masks is None else jnp.where(masks[..., None], -1, patches)


def sequence(scale, views, masks=None, gains=None):
    """The tokens of a backbone, [B * G, ...]."""
    cls, patches = class_tokens(scale, views, gains), patch_tokens(views, masks)
    both = jnp.concatenate([cls[:, :, None], patches.reshape(*patches.shape[:2], -1, D)], axis=2)
    return Tokens(both.reshape(-1, *both.shape[2:]), GRID)


def equal(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


def student_class_tokens():
    gains = VIEWS.gains[:, :G], VIEWS.gains[:, G:]
    kinds = zip((VIEWS.global_views, VIEWS.local_views), gains, strict=True)
    return jnp.concatenate([class_tokens(0.1, *kind) for kind in kinds], axis=1)


@pytest.mark.parametrize(("method", "scale"), [(ibot, 0.2), (distillation, 0.3)])
def test_ibot_compares_class_tokens_across_views_and_masked_patches(method, scale):
    built, networks = make(method, CONFIG)
    targets = jax.jit(built.targets)(networks, VIEWS, TEMPS)
    params = networks.teacher if method is ibot else networks.frozen["teacher"]
    whole = sequence(scale, VIEWS.global_views)
    head, variables = built.modules.teacher.head, {"params": params["head"]}
    units = head.apply(variables, whole.sequence, method="bottleneck")
    equal(targets.rows, {"class": units[:, 0], "patch": Tokens(units, GRID)})
    class_logits, patch_logits = head.apply(variables, whole.sequence)
    means = {"class": class_logits[:, 0].mean(0), "patch": patch_logits[:, 1:].mean((0, 1))}
    equal(targets.means, means)
    assert targets.shared.temps == pytest.approx({"class": 0.04, "patch": 0.07})
    equal(targets.shared.offsets, networks.buffers["centers"])
    equal(targets.shared.params, params["head"])

    terms = jax.jit(built.terms)(networks.student, VIEWS, targets)
    masked = sequence(0.1, VIEWS.global_views, VIEWS.masks, VIEWS.gains[:, :G])
    heads = networks.student["head"], targets.shared
    class_units = units[:, 0].reshape(B, G, -1)
    expected = jax.jit(built.comparison.class_terms)(*heads, student_class_tokens(), class_units)
    unit_tokens = Tokens(units, GRID)
    patch_terms = functools.partial(built.comparison.patch_terms, share=built.masked)
    of_patches = jax.jit(patch_terms)(*heads, masked, unit_tokens, VIEWS.masks)
    equal(terms, expected[0] | expected[1] | of_patches)


def test_dino_compares_class_tokens_of_whole_views():
    built, networks = make(dino, dino_config())
    targets = jax.jit(built.targets)(networks, VIEWS, TEMPS)
    head, variables = built.modules.teacher.head, {"params": networks.teacher["head"]}
    tokens = class_tokens(0.2, VIEWS.global_views)
    equal(targets.rows, head.apply(variables, tokens, method="bottleneck"))
    equal(targets.means, {"class": head.apply(variables, tokens)[0].mean((0, 1))})
    assert targets.shared.temps == pytest.approx({"class": 0.04})

    terms = jax.jit(built.terms)(networks.student, VIEWS, targets)
    heads = networks.student["head"], targets.shared
    expected = jax.jit(built.comparison.class_terms)(*heads, student_class_tokens(), targets.rows)
    equal(terms, expected[0] | expected[1])


@pytest.mark.parametrize("method", [ibot, dino])
def test_centers_keep_their_share_of_themselves(method):
    built, networks = make(method, dino_config() if method is dino else CONFIG)
    before = networks.buffers["centers"]
    means = {kind: draw(*center.shape) for kind, center in before.items()}
    after = built.after(networks, means)
    equal(after, {"centers": {kind: 0.8 * before[kind] + 0.2 * means[kind] for kind in before}})


def test_a_method_is_what_its_config_says():
    built, _ = make(ibot, CONFIG)
    assert built.loss_weights == {"class_loss": 0.5, "patch_loss": 2.0}
    assert (built.comparison.student_temp, built.comparison.max_logits) == (0.2, 500)
    assert (built.comparison.student, built.comparison.teacher) == (
        built.modules.student.head,
        built.modules.teacher.head,
    )
    assert {kind: x.shape for kind, x in built.buffers["centers"].items()} == {
        "class": (12,),
        "patch": (10,),
    }
    assert built.masked[0] == pytest.approx(0.25)
    found = {
        name: [float(schedule(jnp.float32(step))) for step in range(8)]
        for name, schedule in built.schedules.items()
    }
    rising = [*np.linspace(0.03, 0.05, 4), *[0.05] * 4]
    np.testing.assert_allclose(found.pop("teacher_temp"), rising, rtol=1e-5)
    rising = [0.06, 0.06, *np.linspace(0.06, 0.09, 4), 0.09, 0.09]
    np.testing.assert_allclose(found.pop("teacher_patch_temp"), rising, rtol=1e-5)
    assert not found

    built, _ = make(dino, dino_config())
    assert built.loss_weights == {"class_loss": 0.5}
    assert (built.comparison.student_temp, built.comparison.max_logits) == (0.2, 500)
    assert {kind: x.shape for kind, x in built.buffers["centers"].items()} == {"class": (12,)}
    found = [float(built.schedules["teacher_temp"](jnp.float32(step))) for step in range(5)]
    np.testing.assert_allclose(found, [*np.linspace(0.03, 0.05, 4), 0.05], rtol=1e-5)
    assert built.schedules.keys() == {"teacher_temp"}


def test_a_distillations_teacher_is_the_frozen_network():
    built, _ = make(distillation, CONFIG)
    assert built.modules.teacher is built.modules.frozen["teacher"]
    assert built.comparison.teacher is built.modules.teacher.head
    assert built.loss_weights == {"class_loss": 0.5, "patch_loss": 2.0}
