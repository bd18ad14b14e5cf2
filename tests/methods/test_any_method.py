"""The step of a method of three numbers, by hand: it asks no method what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ibot_jax.methods import step as steps
from ibot_jax.methods.method import Targets
from ibot_jax.methods.state import teacher_params
from ibot_jax.methods.views import Noise
from ibot_jax.optim.ema_teacher import ema_teacher
from ibot_jax.parallel.mesh import make_mesh

RNG = np.random.default_rng(0)
ROWS = {"x": RNG.normal(size=(16, 3)), "y": RNG.normal(size=16)}
KEY = jax.random.key(7)
W = np.array([0.5, -1.0, 2.0])
FROZEN = {"other": {"shift": np.float64(0.25)}}


class Linear:
    """The mean of w . x times a target that grows with the teacher, the step and what is kept."""

    def __init__(self):
        self.loss_weights = {"class_loss": 2.0, "patch_loss": 3.0}
        self.schedules = {"teacher_temp": lambda step: 0.5 + step}
        self.buffers = {"kept": jax.ShapeDtypeStruct((3,), jnp.float64)}
        self.seen = set()  # numbers of rows

    def targets(self, networks, views, now):
        rows = (views["x"] @ networks.teacher["w"]) * networks.frozen["other"]["shift"]
        rows = rows * networks.student["w"].sum()  # no gradient flows through targets
        shared = {"temp": now["teacher_temp"], "kept": networks.buffers["kept"].sum()}
        return Targets(rows=rows, shared=shared, means={"kept": views["x"].mean(0)})

    def terms(self, student, views, targets):
        self.seen.add(len(views["x"]))
        products = views["x"] @ student["w"]
        wanted = targets.rows * targets.shared["temp"] + targets.shared["kept"]
        if "gains" in views:
            products = products * views["gains"]
        return {
            "class_loss": (products * wanted).mean(),
            "patch_loss": (products * views["y"]).mean(),
            "teacher_patch_entropy": (views["y"].sum(), jnp.float64(len(views["y"]))),
            "masked_capacity_used": views["y"].max(),
        }

    def after(self, networks, means):
        return {"kept": networks.buffers["kept"] * networks.student["w"] + means["kept"]}


def by_hand(w, teacher, kept, step, gains=1.0):
    """Returns the losses, not weighted, the gradient, and what is kept afterwards."""
    x, y = ROWS["x"], ROWS["y"]
    wanted = (x @ teacher) * 0.25 * w.sum() * (0.5 + step) + kept.sum()
    of_class, of_patch = ((x * (t * gains)[:, None]).mean(0) for t in (wanted, y))
    return (of_class @ w, of_patch @ w), 2 * of_class + 3 * of_patch, kept * w + x.mean(0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw_gains(key, batch):
    return jax.random.uniform(key, (len(batch["x"]),))


def make(devices=1, parts=1, gains=None, method=None):
    method = method or Linear()
    tx = optax.chain(
        optax.with_extra_args_support(optax.scale(-0.1)),
        ema_teacher(lambda step: 0.25 / (1 + step), lambda params: params),
    )
    init = steps.make_init(lambda key: {"w": jnp.array(W)}, tx, method)
    train_step = steps.make_train_step(
        method,
        tx,
        {"lr": lambda step: 0.1 - 0.01 * step},
        make_views=lambda rows, rope_noise: rows,
        draw_noise=lambda *arguments: Noise(gains and gains(*arguments)),
        trained=lambda params: jax.tree.map(lambda _: True, params),
        mesh=make_mesh(jax.devices()[:devices]),
        parts=parts,
        dtype=jnp.float64,
        precision="highest",
    )
    return jax.jit(init)(KEY), jax.jit(train_step)


def test_the_first_state_is_the_students_and_nothing_is_kept_yet():
    state, _ = make()
    assert state.step == 0 and state.step.dtype == jnp.int32 and state.finite
    np.testing.assert_array_equal(state.params["w"], W)
    np.testing.assert_array_equal(state.buffers["kept"], np.zeros(3))


@pytest.mark.parametrize(
    ("devices", "parts", "gains"),
    [(1, 1, None), (1, 8, draw_gains), (8, 1, None), (4, 2, draw_gains)],
)
def test_steps_are_those_by_hand(devices, parts, gains):
    method = Linear()
    state, train_step = make(devices, parts, gains, method)
    w, teacher, kept = W, W, np.zeros(3)
    for step in range(3):
        factors = 1.0
        if gains:
            factors = np.asarray(draw_gains(jax.random.fold_in(KEY, step), ROWS))
        losses, gradient, kept = by_hand(w, teacher, kept, step, factors)
        state, metrics = train_step(state, ROWS, KEY, FROZEN)
        w = w - 0.1 * gradient
        teacher = teacher + 0.25 / (1 + step) * (w - teacher)
        assert state.step == step + 1 and state.finite
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-9)
        np.testing.assert_allclose(teacher_params(state)["w"], teacher, rtol=1e-9)
        np.testing.assert_allclose(state.buffers["kept"], kept, rtol=1e-9)
        expected = {
            "loss": 2 * losses[0] + 3 * losses[1],
            "class_loss": 2 * losses[0],
            "patch_loss": 3 * losses[1],
            "teacher_patch_entropy": ROWS["y"].mean(),
            "masked_capacity_used": ROWS["y"].max(),
            "lr": 0.1 - 0.01 * step,
            "teacher_temp": 0.5 + step,
            "grad_norm": np.linalg.norm(gradient),
            "finite": 1.0,
        }
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-9, err_msg=name)
            assert metrics[name].dtype == jnp.float64
    assert method.seen == {16 // devices // parts}
    assert ("scan" in str(jax.make_jaxpr(train_step)(state, ROWS, KEY, FROZEN))) == (parts > 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_no_later_one_does(value):
    state, train_step = make(devices=2)
    state, _ = train_step(state, ROWS, KEY, FROZEN)
    spoiled = ROWS | {"y": np.where(np.arange(16) == 11, value, ROWS["y"])}
    for rows in (spoiled, ROWS):
        after, metrics = train_step(state, rows, KEY, FROZEN)
        assert not after.finite and metrics["finite"] == 0
        jax.tree.map(np.testing.assert_array_equal, after.replace(finite=state.finite), state)
        state = after


def test_a_gradient_alone_that_is_not_finite_counts_too():
    state, train_step = make()
    state = state.replace(params={"w": jnp.zeros(3)})  # whose products, and whose loss, are 0
    huge = {"x": np.full((16, 3), 1e160), "y": np.full(16, 1e160)}
    after, metrics = train_step(state, huge, KEY, FROZEN)
    assert metrics["loss"] == 0 and np.isinf(metrics["grad_norm"]) and not metrics["finite"]
    np.testing.assert_array_equal(after.params["w"], np.zeros(3))
