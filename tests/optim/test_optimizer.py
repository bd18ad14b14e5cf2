"""The Optax chain against NumPy loops and the schedules that the original recorded."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ibot_jax.errors import UserError
from ibot_jax.optim import optimizer as optimizers
from ibot_jax.optim.freezing import Freezing, join, split
from ibot_jax.optim.schedules import cosine_schedule


def constant(value):
    return lambda step: value


def params_like_a_model(rng):
    return {
        "backbone": {"fc": {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}},
        "head": {
            "last_layer": {"v": rng.normal(size=(4, 5)), "g": np.ones((1, 5))},
            "patch_last_layer": {"v": rng.normal(size=(4, 6)), "g": np.ones((1, 6))},
        },
    }


def make(name="adamw", **overrides):
    kwargs = dict(
        lr=constant(0.1),
        weight_decay=constant(0.2),
        clip=0.0,
        clip_by="tensor",
        betas=(0.9, 0.999),
        eps=1e-8,
        rates=(),
        freezing=Freezing(),
        freeze_last_layer=0,
        freeze_last_layer_by="skipping",
        norm_last_layer=True,
        teacher_rate=constant(0.1),
        init_teacher=lambda params: params,
    )
    return optimizers.make_optimizer(name, **{**kwargs, **overrides})


def run(tx, params, gradients):
    """Returns the parameters and teachers after each of a list of gradients."""
    state = tx.init(params)
    history = []
    for step, gradient in enumerate(gradients):
        updates, state = tx.update(gradient, state, params, step=jnp.float32(step))
        params = optax.apply_updates(params, updates)
        history.append((params, optax.tree.get(state, "teacher")))
    return history


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def params(rng):
    return jax.tree.map(jnp.array, params_like_a_model(rng))


@pytest.fixture
def gradients(rng):
    return [jax.tree.map(jnp.array, params_like_a_model(rng)) for _ in range(4)]


class TestSchedules:
    def test_are_those_of_the_recorded_run(self, step_small):
        recorded = np.load(step_small)
        steps = len(recorded["lr"])
        schedules = {
            "lr": cosine_schedule(0.05 * 2 / 256, 1e-6, steps, warmup=2),
            "wd": cosine_schedule(0.04, 0.4, steps),
        }
        for name, schedule in schedules.items():
            ours = [schedule(jnp.float32(step)) for step in range(steps)]
            np.testing.assert_allclose(ours, recorded[name], rtol=1e-5, atol=1e-9)
        rate = cosine_schedule(0.1, 0.0, steps)
        ours = [rate(jnp.float32(step)) for step in range(steps)]
        np.testing.assert_allclose(ours, 1 - recorded["momentum"], rtol=1e-5)

    @pytest.mark.parametrize(("base", "final"), [(0.004, 0.0), (1e-3, 1e-12), (0.1, 0.2)])
    def test_the_last_steps_of_a_long_run_are_as_exact_as_the_first(self, base, final):
        """In float32 1 + cos(pi x) and 1 - momentum are 0 there, or wrong by several percent."""
        total = 1_000_000
        steps = np.array([0, 1, 777, total // 2, total - 1000, total - 10, total - 1, total])
        schedule = jax.jit(cosine_schedule(base, final, total))
        ours = [schedule(jnp.float32(step)) for step in steps]
        cosine = np.cos(np.pi * steps.astype(np.longdouble) / total)
        expected = final + (base - final) * (1 + cosine) / 2
        np.testing.assert_allclose(ours, expected.astype(float), rtol=1e-5)

    def test_a_warmup_of_one_step_starts_at_zero(self):
        schedule = cosine_schedule(1.0, 0.0, 11, warmup=1)
        np.testing.assert_allclose([schedule(0.0), schedule(1.0), schedule(6.0)], [0, 1, 0.5])


def decayed(p, gradient, name):
    return gradient + 0.2 * p if p.ndim > 1 else gradient


def adamw(p, gradients):
    m = v = np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        if p.ndim > 1:
            p = p * (1 - 0.1 * 0.2)
        p = p - 0.1 / (1 - 0.9**t) * m / (np.sqrt(v) / np.sqrt(1 - 0.999**t) + 1e-8)
    return p


def sgd(p, gradients):
    buffer = np.zeros_like(p)
    for g in gradients:
        buffer = 0.9 * buffer + (g + 0.2 * p if p.ndim > 1 else g)
        p = p - 0.1 * buffer
    return p


def lars(p, gradients):
    buffer = np.zeros_like(p)
    for g in gradients:
        if p.ndim > 1:
            g = g + 0.2 * p
            g = g * 0.001 * np.linalg.norm(p) / np.linalg.norm(g)
        buffer = 0.9 * buffer + g
        p = p - 0.1 * buffer
    return p


@pytest.mark.parametrize("by_hand", [adamw, sgd, lars])
def test_optimisers_follow_their_definitions(params, gradients, by_hand):
    final, _ = run(make(by_hand.__name__), params, gradients)[-1]
    for path in (
        ("backbone", "fc", "kernel"),
        ("backbone", "fc", "bias"),
        ("head", "last_layer", "v"),
    ):
        leaf = lambda tree: np.asarray(tree[path[0]][path[1]][path[2]], np.float64)  # noqa: E731
        expected = by_hand(leaf(params), [leaf(g) for g in gradients])
        np.testing.assert_allclose(leaf(final), expected, rtol=2e-5, atol=1e-5)


def test_lars_steps_a_zero_tensor_by_its_gradient(params, gradients):
    params["backbone"]["fc"]["kernel"] = jnp.zeros((3, 4))
    final, _ = run(make("lars"), params, gradients[:1])[-1]
    expected = -0.1 * gradients[0]["backbone"]["fc"]["kernel"]
    np.testing.assert_allclose(final["backbone"]["fc"]["kernel"], expected, rtol=1e-6)


def test_clipping_is_per_tensor(gradients):
    clipped, _ = optimizers.clip_by_tensor_norm(0.5).update(
        gradients[0], optax.EmptyState(), gradients[0], step=0.0
    )
    for ours, g in zip(jax.tree.leaves(clipped), jax.tree.leaves(gradients[0]), strict=True):
        expected = g * min(1, 0.5 / (np.linalg.norm(g) + 1e-6))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_gradients_near_zero_meet_the_constants_of_the_original():
    """Clipped by clip / (norm + 1e-6); and AdamW's first step is g / (|g| + 1e-8)."""
    clip = optimizers.clip_by_tensor_norm(3e-6)
    gradient = {"p": jnp.array([3e-6, 4e-6])}
    clipped, _ = clip.update(gradient, clip.init(gradient), gradient, step=0.0)
    np.testing.assert_allclose(clipped["p"], [1.5e-6, 2e-6], rtol=1e-5)
    settings = dict(
        lr=constant(1.0), weight_decay=constant(0.0), clip=0, betas=(0.9, 0.999), eps=1e-8
    )
    adam = optimizers.descent("adamw", **settings)
    gradient = {"p": jnp.array([1e-8, 3e-8])}
    updates, _ = adam.update(gradient, adam.init(gradient), gradient, step=0.0)
    np.testing.assert_allclose(updates["p"], [-0.5, -0.75], rtol=1e-4)


def test_short_gradients_pass_the_clip_unchanged(gradients):
    clipped, _ = optimizers.clip_by_tensor_norm(1e3).update(
        gradients[0], optax.EmptyState(), gradients[0], step=0.0
    )
    jax.tree.map(np.testing.assert_array_equal, clipped, gradients[0])


class TestFreezing:
    def test_frozen_last_layers_get_neither_update_nor_decay_nor_moments(self, params, gradients):
        history = run(make(freeze_last_layer=2), params, gradients)
        for frozen, _ in history[:2]:
            for layer in ("last_layer", "patch_last_layer"):
                np.testing.assert_array_equal(
                    frozen["head"][layer]["v"], params["head"][layer]["v"]
                )
            assert not np.allclose(
                frozen["backbone"]["fc"]["bias"], params["backbone"]["fc"]["bias"]
            )
        # Adam starts counting when the layer thaws.
        expected = adamw(
            np.asarray(params["head"]["last_layer"]["v"], np.float64),
            [np.asarray(g["head"]["last_layer"]["v"]) for g in gradients[2:]],
        )
        np.testing.assert_allclose(
            history[-1][0]["head"]["last_layer"]["v"], expected, rtol=2e-5, atol=1e-5
        )

    def test_by_their_rate_moments_go_on(self, params, gradients):
        """DINOv2's way: a rate of 0, which is decay's, too, while Adam counts and averages."""
        history = run(make(freeze_last_layer=2, freeze_last_layer_by="rate"), params, gradients)
        free = run(make(), params, gradients)
        for (frozen, _), (other, _) in zip(history[:2], free[:2], strict=True):
            for layer in ("last_layer", "patch_last_layer"):
                np.testing.assert_array_equal(
                    frozen["head"][layer]["v"], params["head"][layer]["v"]
                )
            jax.tree.map(np.testing.assert_array_equal, frozen["backbone"], other["backbone"])
        gradient = [np.asarray(g["head"]["last_layer"]["v"], np.float64) for g in gradients]
        value = np.asarray(params["head"]["last_layer"]["v"], np.float64)
        first, second = np.zeros_like(value), np.zeros_like(value)
        for step, g in enumerate(gradient, start=1):
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            if step > 2:
                direction = first / (1 - 0.9**step)
                direction /= np.sqrt(second / (1 - 0.999**step)) + 1e-8
                value -= 0.1 * (direction + 0.2 * value)
        found = history[-1][0]["head"]["last_layer"]["v"]
        np.testing.assert_allclose(found, value, rtol=2e-5, atol=1e-5)

    @pytest.mark.parametrize("norm_last_layer", [True, False])
    def test_prototype_norms_are_trained_only_without_norm_last_layer(
        self, params, gradients, norm_last_layer
    ):
        final, _ = run(make(norm_last_layer=norm_last_layer), params, gradients)[-1]
        for layer in ("last_layer", "patch_last_layer"):
            stays = np.array_equal(final["head"][layer]["g"], params["head"][layer]["g"])
            assert stays == norm_last_layer


class TestTeacher:
    def test_averages_the_updated_student(self, params, gradients):
        teacher = np.asarray(params["backbone"]["fc"]["kernel"], np.float64)
        for student, ours in run(make(), params, gradients):
            teacher = 0.9 * teacher + 0.1 * np.asarray(student["backbone"]["fc"]["kernel"])
            np.testing.assert_allclose(ours["backbone"]["fc"]["kernel"], teacher, rtol=1e-5)

    def test_leaves_without_counterpart_stay(self, params, gradients):
        extra = jnp.arange(3.0)
        tx = make(init_teacher=lambda params: {**params, "extra": extra})
        _, teacher = run(tx, params, gradients)[-1]
        np.testing.assert_array_equal(teacher["extra"], extra)

    def test_shares_no_buffer_with_the_student(self, params):
        teacher = optax.tree.get(make().init(params), "teacher")
        for ours, student in zip(jax.tree.leaves(teacher), jax.tree.leaves(params), strict=True):
            assert ours is not student


class TestClippingTogether:
    @pytest.fixture
    def tree(self, gradients):
        return {
            "backbone": gradients[0]["backbone"],
            "class": gradients[0]["head"],
            "patch": gradients[1]["head"],
        }

    @pytest.mark.parametrize("separate", [True, False])
    def test_a_head_of_patch_tokens_is_a_module_of_its_own(self, gradients, separate):
        head = dict(gradients[0]["head"])
        if separate:
            head["patch_mlp_0"] = {"kernel": gradients[1]["backbone"]["fc"]["kernel"]}
        tree = {"head": head}
        ours, _ = optimizers.clip_by_norm(0.5, by_module=True).update(tree, optax.EmptyState())
        patches = {name for name in head if name.startswith("patch_")} if separate else set()
        for names in (patches, head.keys() - patches):
            leaves = jax.tree.leaves([head[name] for name in names])
            norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves))
            for name in names:
                jax.tree.map(
                    lambda a, b, norm=norm: np.testing.assert_allclose(
                        a, b * 0.5 / norm, rtol=1e-5
                    ),
                    ours["head"][name],
                    head[name],
                )

    @pytest.mark.parametrize("by_module", [True, False])
    def test_norms_are_of_modules_or_of_all(self, tree, by_module):
        """The constants of `torch.nn.utils.clip_grad_norm_`, by which DINOv2 clips its modules."""
        clip = optimizers.clip_by_norm(0.5, by_module=by_module)
        ours, _ = clip.update(tree, clip.init(tree))
        for name, module in tree.items():
            counted = module if by_module else tree
            norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(counted)))
            factor = min(1, 0.5 / (norm + 1e-6))
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b * factor, rtol=1e-5),
                ours[name],
                module,
            )

    @pytest.mark.parametrize("clip_by", ["module", "global"])
    def test_what_is_fixed_has_no_part_in_them(self, params, gradients, clip_by):
        """However large the gradients of prototypes' norms are that stay."""
        settings = dict(clip_by=clip_by, clip=0.5, name="sgd")
        small, _ = run(make(**settings), params, gradients[:1])[-1]
        for layer in ("last_layer", "patch_last_layer"):
            gradients[0]["head"][layer]["g"] *= 1e3
        large, _ = run(make(**settings), params, gradients[:1])[-1]
        jax.tree.map(np.testing.assert_array_equal, small, large)


class TestFrozenParts:
    """`optim.freeze`: for the whole run, for a while, and where last layers are frozen besides."""

    def frozen(self, *entries, total=4):
        return Freezing(";".join(f"{glob}: {steps}" for glob, steps in entries), entries, total)

    def test_what_is_frozen_for_the_whole_run_has_no_moments(self, params, gradients):
        tx = make(freezing=self.frozen(("backbone", 4)))
        final, teacher = run(tx, params, gradients)[-1]
        for tree in (final, teacher):
            jax.tree.map(np.testing.assert_array_equal, tree["backbone"], params["backbone"])
        assert not np.array_equal(
            final["head"]["last_layer"]["v"], params["head"]["last_layer"]["v"]
        )
        state = tx.init(params)
        shapes = [x.shape for x in jax.tree.leaves(state) if x.ndim]
        moments = [x.shape for x in jax.tree.leaves(params["head"]) if x.shape[0] == 4] * 2
        teacher = [x.shape for x in jax.tree.leaves(params)]
        assert sorted(shapes) == sorted(moments + teacher)

    @pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
    def test_what_is_frozen_for_a_while_begins_when_it_thaws(self, params, gradients, name):
        tx = make(name, freezing=self.frozen(("backbone", 2), ("backbone/fc/bias", 3)))
        history = run(tx, params, gradients)
        for leaf, steps in (("kernel", 2), ("bias", 3)):
            first = params["backbone"]["fc"][leaf]
            for student, teacher in history[:steps]:
                np.testing.assert_array_equal(student["backbone"]["fc"][leaf], first)
                np.testing.assert_array_equal(teacher["backbone"]["fc"][leaf], first)
            late = [np.asarray(g["backbone"]["fc"][leaf], np.float64) for g in gradients[steps:]]
            by_hand = {"adamw": adamw, "sgd": sgd, "lars": lars}[name]
            expected = by_hand(np.asarray(first, np.float64), late)
            final = history[-1][0]["backbone"]["fc"][leaf]
            np.testing.assert_allclose(final, expected, rtol=2e-5, atol=1e-5)

    def test_a_last_layer_thaws_when_all_that_freezes_it_is_over(self, params, gradients):
        entries = ("head/last_layer", 1), ("head/patch_last_layer", 3)
        history = run(make(freezing=self.frozen(*entries), freeze_last_layer=2), params, gradients)
        for layer, steps in (("last_layer", 2), ("patch_last_layer", 3)):
            moves = [
                not np.array_equal(student["head"][layer]["v"], params["head"][layer]["v"])
                for student, _ in history
            ]
            assert moves == [False] * steps + [True] * (4 - steps)

    @pytest.mark.parametrize(
        ("entries", "last", "problem"),
        [
            ([("backbone/fd", 1)], 0, "has 'backbone/fd', which names no parameter; did you mean"),
            ([("*", 1)], 0, "leaves nothing to train at first; name fewer parameters$"),
            ([("backbone", 9), ("head", 1)], 0, "leaves nothing to train at first; name fewer"),
            ([("backbone", 1)], 2, "leaves nothing .* parameters, or shorten optim.freeze_last_la"),
            ([("backbone", 1), ("head/last_layer", 3)], 2, "leaves nothing .* or shorten optim"),
        ],
    )
    def test_what_cannot_be_is_told(self, params, entries, last, problem):
        with pytest.raises(UserError, match=f"optim.freeze='.*' {problem}"):
            make(freezing=self.frozen(*entries), freeze_last_layer=last).init(params)

    def test_last_layers_may_learn_alone(self, params, gradients):
        history = run(make(freezing=self.frozen(("backbone", 1))), params, gradients)
        moves = [
            s["head"]["last_layer"]["v"] != params["head"]["last_layer"]["v"] for s, _ in history
        ]
        assert moves[0].any()


def test_a_tree_is_split_and_joined(params):
    chosen = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    ours, others = split(params, chosen)
    assert [leaf.ndim for leaf in jax.tree.leaves(others)] == [1]
    assert ours["backbone"]["fc"]["bias"] is None
    jax.tree.map(np.testing.assert_array_equal, join(ours, others), params)
