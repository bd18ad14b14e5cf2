"""The analytic FLOPs against published ones, and against the products that the step contains."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_batch, tiny_config, tiny_plan

from ibot_jax import config as configs
from ibot_jax.data.draw.masks import draw_mask
from ibot_jax.models import counts
from ibot_jax.models.build import build_backbone
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training as steps
from ibot_jax.tools import flops


def products(jaxpr) -> int:
    """Counts the FLOPs of all matrix products in a program, each while loop running once."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            summed = math.prod(left[axis] for axis in contracted)
            count += 2 * summed * math.prod(equation.outvars[0].aval.shape)
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                count += products(inner) * equation.params.get("length", 1)
    return count


def tiny(**overrides):
    """Returns a tiny config whose masks fill their slots, and whose positions need no products."""
    settings = dict(
        masks__ratios=(0.5,), masks__variances=(0.0,), data__local_size=(16, 16), model__depth=3
    )
    return tiny_config(**(settings | overrides))


@pytest.mark.parametrize(("size", "published"), [("small", 4.6), ("base", 17.5), ("large", 61.6)])
def test_a_forward_pass_takes_the_published_multiplications(size, published):
    """G multiply-adds at 224 pixels: of DeiT's table for S and B, of timm's for L."""
    config = configs.get_config()
    config.model.update(configs.VIT_SIZES[size])
    forward = sum(counts.flops(config.model, 3, (224, 224), (224, 224)).values())
    assert forward / 2e9 == pytest.approx(published, rel=0.01)


def test_kinds_by_hand():
    """Two blocks of width 16 on 16 patches of 4 x 4 x 3 values; a head of 24, 8, 12."""
    config = tiny_config()
    assert counts.flops(config.model, 3, (16, 16), (16, 16)) == {
        "patch_embedding": 2 * 16 * 48 * 16,
        "linear": 2 * 17 * 2 * (16 * 48 + 16 * 16 + 16 * 64 + 64 * 16),
        "attention": 2 * 2 * 2 * 17 * 17 * 16,
    }
    assert flops.head_flops(config.head, 16, mlp=(3, 2), classes=3, patches=2) == {
        "mlp": 5 * 2 * (16 * 24 + 24 * 24 + 24 * 8),
        "last_layer": 5 * 2 * 8 * 12,
    }


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (8, 8)])
def test_a_backbones_products_are_counted(size):
    config = tiny_config(data__global_size=size)
    backbone = build_backbone(config.model, config.data.global_size, config.dtype)
    images = jnp.zeros((1, *size, 3))
    variables = backbone.init(jax.random.key(0), images)

    def loss(variables):
        return backbone.apply(variables, images).sequence.sum()

    forward = counts.flops(config.model, 3, size, config.data.global_size)
    assert products(jax.make_jaxpr(loss)(variables).jaxpr) == sum(forward.values())
    trained = 3 * sum(forward.values()) - forward["patch_embedding"]
    assert products(jax.make_jaxpr(jax.grad(loss))(variables).jaxpr) == trained


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"data__local_views": 0},
        {"data__local_views": 5, "data__global_views": 3, "batch_size": 16},
        {"data__global_size": (16, 24), "data__local_size": (16, 24), "masks__ratios": (0.5, 0.5)},
        {"head__hidden_dim": 100, "head__bottleneck_dim": 40, "model__mlp_ratio": 2.5},
        {"head__prototypes": 500, "head__patch_prototypes": 500},
        {
            "head__prototypes": 300,
            "head__patch_prototypes": 90,
            "head__shared": False,
            "head__shared_teacher": False,
        },
        {"model__scan_blocks": True},
        {"method": "dino", "masks__ratios": (0.0, 0.0)},
        {
            "method": "dinov2",
            "head__separate": True,
            "head__shared": False,
            "head__shared_teacher": False,
            "head__patch_hidden_dim": 30,
            "head__patch_bottleneck_dim": 12,
        },
    ],
)
def test_a_steps_products_are_counted(overrides):
    if "masks__ratios" in overrides:
        overrides = overrides | {"masks__variances": (0.0, 0.0)}
    config = tiny(**overrides)
    mesh = make_mesh(jax.devices()[:1])
    plan = tiny_plan(config)
    state = jax.eval_shape(steps.make_init(config, plan), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, tiny_batch(config))
    step = steps.make_train_step(config, plan, mesh)
    program = jax.make_jaxpr(step)(state, batch, jax.random.key(0))
    counted = flops.total(flops.of_run(config)) * config.batch_size
    # What is not the model's: the mean outputs for the centers, the class loss of all pairs of
    # views with its gradient, and sums over the batch.
    head, data = config.head, config.data
    centers = {"class": head.prototypes, "patch": head.patch_prototypes}
    means = 2 * head.bottleneck_dim * sum(centers[kind] for kind in state.buffers["centers"])
    pairs = config.batch_size * data.global_views * (data.global_views + data.local_views)
    sums = products(program.jaxpr) - counted - means - 2 * 2 * pairs * head.prototypes
    assert 0 <= sums < 3e-4 * counted


def products_of_a_step(config):
    mesh, plan = make_mesh(jax.devices()[:1]), tiny_plan(config)
    state = jax.eval_shape(steps.make_init(config, plan), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, tiny_batch(config))
    step = steps.make_train_step(config, plan, mesh)
    return products(jax.make_jaxpr(step)(state, batch, jax.random.key(0)).jaxpr)


@pytest.mark.parametrize("turns", [1, 3])
def test_a_turn_of_sinkhorn_is_the_last_layer_of_class_and_masked_tokens(turns):
    """Of the teacher: one more product for each of them, and none for the other tokens."""
    common = dict(method="dinov2", head__separate=True, head__shared=False)
    common |= dict(head__shared_teacher=False, loss__sinkhorn_turns=turns)
    plain, balanced = tiny(**common), tiny(**common, loss__targets="sinkhorn")
    means = 2 * plain.head.bottleneck_dim * (plain.head.prototypes + plain.head.patch_prototypes)
    last_layer = flops.of_run(plain)["teacher_head"]["last_layer"] * plain.batch_size
    extra = products_of_a_step(balanced) - products_of_a_step(plain) + means
    assert extra == turns * last_layer


def test_the_heirs_recipe_asks_for_little_more_than_ibots():
    """ViT-L/16 with 131,072 prototypes, the turns of Sinkhorn included: within a hundredth."""
    config = configs.get_config()
    config.model.update(configs.VIT_SIZES["large"])
    config.data.local_views = 8
    config.head.update(dict(prototypes=131072, patch_prototypes=131072))
    ibot = flops.total(flops.of_run(config))
    config.method = "dinov2"
    config.masks.kind = "dinov2"
    config.head.update(dict(separate=True, shared=False, shared_teacher=False))
    dinov2 = flops.of_run(config)
    sinkhorn = 3 * dinov2["teacher_head"]["last_layer"]
    assert 0.99 * ibot < flops.total(dinov2) + sinkhorn < 1.01 * ibot


@pytest.mark.parametrize(
    ("ratios", "variances"), [((0.0, 0.3), (0.0, 0.2)), ((0.25,), (0.0,)), ((0.1, 0.5), (0.0, 0.1))]
)
@pytest.mark.parametrize(("kind", "shortfall"), [("random", 0.5), ("block", 3.0)])
def test_masks_have_the_expected_number_of_tokens(kind, shortfall, ratios, variances):
    rng = np.random.default_rng(0)
    drawn = [draw_mask(rng, kind, (14, 14), ratios, variances).sum() for _ in range(4000)]
    error = 4 * np.std(drawn) / math.sqrt(len(drawn))
    masks = configs.get_config().masks
    masks.update(ratios=ratios, variances=variances)
    expected = flops.expected_masked(masks, (14, 14))
    assert expected - shortfall - error <= np.mean(drawn) <= expected + error


def test_a_gram_teacher_and_visible_patches_are_counted():
    config = configs.get_config()
    plain = flops.of_run(config)
    config.gram.weight = 2.0
    anchored = flops.of_run(config)
    # Of a ViT-S/16 on two views of 448: 784 patches of 768 values, 785 tokens, width 384.
    tokens, width = 785, 384
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    assert sum(anchored.pop("gram_teacher").values()) == 2 * (2 * 784 * 768 * width + 12 * block)
    assert anchored == plain
    config.loss.visible_weight = 1.0
    assert flops.of_run(config)["student_head"] != plain["student_head"]


def test_the_largest_views_are_counted():
    config = configs.get_config()
    config.high_res.update(
        last="10%", global_sides=(112, 448), local_sides=(96, 112), shares=(9.0, 1.0)
    )
    counted = flops.of_run(config)
    config = configs.get_config()
    config.data.update(global_size=(448, 448), local_size=(112, 112))
    assert counted == flops.of_run(config)


@pytest.mark.slow
def test_the_compilers_count_of_a_vit_s_step_is_close():
    """XLA counts elementwise operations, too; its loop over masked tokens runs once here."""
    config = configs.get_config()
    config.batch_size, config.dtype = 4, "float32"
    config.model.depth = 3
    config.masks.update(ratios=(56 / 196,), variances=(0.0,))  # 448 tokens of 8 views: 7 x 64
    mesh = make_mesh(jax.devices()[:1])
    plan = configs.make_plan(config, 1000 * config.batch_size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(steps.make_init(config, plan), key)
    batch = {
        "global_views": jax.ShapeDtypeStruct((4, 2, 224, 224, 3), jnp.uint8),
        "local_views": jax.ShapeDtypeStruct((4, 10, 96, 96, 3), jnp.uint8),
        "masks": jax.ShapeDtypeStruct((4, 2, 14, 14), bool),
    }
    train_step = jax.jit(steps.make_train_step(config, plan, mesh), donate_argnums=0)
    compiled = train_step.lower(state, batch, key).compile()
    counted = 4 * flops.total(flops.of_run(config))
    assert counted <= compiled.cost_analysis()["flops"] <= 1.08 * counted
