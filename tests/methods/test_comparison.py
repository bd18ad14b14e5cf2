"""Logits compared token by token in NumPy, whatever is computed at a time and on however many."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.sharding import PartitionSpec

from ibot_jax.methods import comparison
from ibot_jax.models.head import Head
from ibot_jax.models.tokens import Tokens
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.tensor import over_prototypes

RNG = np.random.default_rng(0)
B, G, V, D, U, K, PATCH_K = 5, 2, 3, 6, 4, 8, 12
GRID, REGISTERS = (2, 3), 2
TEMPS = {"class": 0.05, "patch": 0.07}
SHARE = (0.3, 0.2)
STUDENT = Head(7, U, K, PATCH_K, shared=False, act="gelu")
TEACHER = Head(7, U, K, PATCH_K, shared=False, act="gelu")


def draw(*shape):
    return jnp.array(RNG.normal(size=shape), jnp.float32)


def params_of(head, seed):
    return head.init(jax.random.key(seed), jnp.zeros((1, D)))["params"]


PARAMS, TEACHER_PARAMS = params_of(STUDENT, 0), params_of(TEACHER, 1)
CENTERS = {"class": 0.1 * draw(K), "patch": 0.1 * draw(PATCH_K)}
TEACHER_HEAD = comparison.TeacherHead(TEACHER_PARAMS, CENTERS, TEMPS)
CLASS_TOKENS, CLASS_UNITS = draw(B, V, D), draw(B, G, U)
TOKENS = Tokens(draw(B * G, 1 + REGISTERS + 6, D), GRID, REGISTERS)
UNITS = Tokens(draw(B * G, 1 + REGISTERS + 6, U), GRID, REGISTERS)
MASKS = RNG.random((B, G, *GRID)) < 0.5
MASKS[0, 1] = False


def within(size, function, *arrays):
    """Runs a function with the prototypes over an axis of this size."""
    mesh = make_mesh(tensor=size)
    spec = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            lambda *arrays: over_prototypes(function)(*arrays),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            axis_names={"data", "fsdp"} if size > 1 else set(mesh.axis_names),
            check_vma=False,
        )
    )(*arrays)


@dataclasses.dataclass(frozen=True)
class Recorded(comparison.Comparison):
    """Notes of how many tokens it has the logits at a time."""

    seen: set = dataclasses.field(default_factory=set)

    def _logits(self, kind, params, tokens):
        self.seen.add(tokens.shape[:-1])
        return super()._logits(kind, params, tokens)


def student_logits(kind, tokens):
    logits = STUDENT.apply({"params": PARAMS}, tokens)[("class", "patch").index(kind)]
    return np.asarray(logits, np.float64)


def targets(kind, units):
    logits = TEACHER.apply({"params": TEACHER_PARAMS}, units, method=f"{kind}_logits")
    logits = np.asarray(logits, np.float64)
    return scipy.special.softmax((logits - CENTERS[kind]) / TEMPS[kind], axis=-1)


def class_terms_by_hand():
    logits, p = student_logits("class", CLASS_TOKENS), targets("class", CLASS_UNITS)
    log_q = scipy.special.log_softmax(logits / 0.1, axis=-1)
    pairs = [(g, v) for g in range(G) for v in range(V) if g != v]
    kl = [scipy.stats.entropy(p[:, i], p[:, j], axis=-1).mean() for i, j in ((0, 1), (1, 0))]
    return {
        "class_loss": -np.mean([(p[:, g] * log_q[:, v]).sum(-1).mean() for g, v in pairs]),
        "student_entropy": scipy.special.entr(np.exp(log_q)).sum(-1).mean(),
        "teacher_entropy": scipy.special.entr(p).sum(-1).mean(),
        "teacher_views_kl": np.mean(kl),
        "teacher_student_agreement": (logits[:, :G].argmax(-1) == p.argmax(-1)).mean(),
        "teacher_mean_entropy": p.mean((0, 1)),
    }


@pytest.mark.parametrize(
    ("size", "at_once", "shape"),
    [
        (1, 1000, (B, V)),
        (1, V * B, (B, V)),
        (1, V * B - 1, (B - 1, V)),
        (1, V * 2, (2, V)),
        (1, V - 1, (1, V)),
        (2, V * 2, (4, V)),  # the logits of a device are those of its prototypes
        (4, V, (4, V)),
    ],
)
def test_class_terms_are_those_of_all_pairs_of_views(size, at_once, shape):
    both = Recorded(STUDENT, TEACHER, student_temp=0.1, max_logits=K * at_once)
    (terms, by_prototype) = within(
        size,
        lambda shared, rows: both.class_terms(*shared, *rows),
        (PARAMS, TEACHER_HEAD),
        (CLASS_TOKENS, CLASS_UNITS),
    )
    expected = class_terms_by_hand()
    assert {*terms, *by_prototype} == expected.keys()
    assert by_prototype.keys() == {"teacher_mean_entropy"}
    for name, value in (terms | by_prototype).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert both.seen == {shape}


def patch_terms_by_hand():
    def rows(x):
        return x.patches.reshape(B, G, 6, -1)

    p = targets("patch", rows(UNITS))
    log_q = scipy.special.log_softmax(student_logits("patch", rows(TOKENS)) / 0.1, axis=-1)
    chosen = MASKS.reshape(B, G, 6)
    entropies = scipy.special.entr(p).sum(-1)
    losses = [
        -(p[b, g] * log_q[b, g]).sum(-1)[chosen[b, g]].mean() if chosen[b, g].any() else 0
        for b in range(B)
        for g in range(G)
    ]
    return {
        "patch_loss": np.mean(losses),
        "teacher_patch_entropy": (entropies[chosen].sum() / (B * G), chosen.sum() / (B * G)),
        "mask_ratio": chosen.mean(),
    }


@pytest.mark.parametrize(
    ("size", "most", "slots"), [(1, 1000, 60), (1, 7, 7), (2, 7, 14), (4, 7, 28)]
)
def test_patch_terms_are_those_of_masked_patches(size, most, slots, monkeypatch):
    asked, capacity = [], comparison.masked_capacity
    monkeypatch.setattr(comparison, "masked_capacity", lambda *a: asked.append(a) or capacity(*a))
    both = Recorded(STUDENT, TEACHER, student_temp=0.1, max_logits=PATCH_K * most)
    terms, _ = within(
        size,
        lambda shared, rows: (both.patch_terms(*shared, *rows, SHARE), {}),
        (PARAMS, TEACHER_HEAD),
        (TOKENS, UNITS, jnp.array(MASKS)),
    )
    assert terms.pop("masked_capacity_used") == pytest.approx(MASKS.sum() / slots, rel=1e-6)
    expected = patch_terms_by_hand()
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert both.seen == {(slots,)} and set(asked) == {(SHARE, B * G, 6, most * size)}


@pytest.mark.parametrize("at_once", [1, 1000])
def test_losses_have_gradients_of_the_student_and_nothing_else_has(at_once):
    both = comparison.Comparison(STUDENT, TEACHER, student_temp=0.1, max_logits=PATCH_K * at_once)

    def of_class(student, teacher, tokens, units):
        terms, by_prototype = both.class_terms(student, teacher, tokens, units)
        return terms.pop("class_loss"), terms | by_prototype

    def of_patches(student, teacher, tokens, units):
        arguments = TOKENS.replace(sequence=tokens), UNITS.replace(sequence=units)
        terms = both.patch_terms(student, teacher, *arguments, jnp.array(MASKS), SHARE)
        return terms.pop("patch_loss"), terms

    for terms_of, tokens, units in (
        (of_class, CLASS_TOKENS, CLASS_UNITS),
        (of_patches, TOKENS.sequence, UNITS.sequence),
    ):
        arguments = PARAMS, TEACHER_HEAD, tokens, units

        def monitors(*arguments, terms_of=terms_of):
            return sum(x.sum() for x in jax.tree.leaves(terms_of(*arguments)[1]))

        everything = 0, 1, 2, 3
        student, teacher, of_tokens, of_units = jax.jit(
            jax.grad(lambda *x, terms_of=terms_of: terms_of(*x)[0], everything)
        )(*arguments)
        assert all(np.any(x) for x in jax.tree.leaves(student["mlp_0"])) and np.any(of_tokens)
        assert not any(np.any(x) for x in jax.tree.leaves((teacher, of_units)))
        nothing = jax.jit(jax.grad(monitors, everything))(*arguments)
        assert not any(np.any(x) for x in jax.tree.leaves(nothing))


def test_units_are_those_of_each_token():
    found = comparison.units_of(TEACHER, TEACHER_PARAMS, TOKENS)
    expected = TEACHER.apply({"params": TEACHER_PARAMS}, TOKENS.sequence, method="bottleneck")
    tokens = found["patch"]
    assert (tokens.grid, tokens.num_registers) == (GRID, REGISTERS)
    np.testing.assert_allclose(tokens.sequence, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["class"], tokens.cls)


def test_units_of_separate_heads_are_those_of_each_kind():
    head = Head(7, U, K, PATCH_K, shared=False, act="gelu", separate=True, patch_bottleneck_dim=3)
    params = head.init(jax.random.key(0), TOKENS.cls)["params"]
    found = comparison.units_of(head, params, TOKENS)
    for kind, units, tokens in (
        ("class", found["class"], TOKENS.cls),
        ("patch", found["patch"].patches, TOKENS.patches),
    ):
        expected = head.apply({"params": params}, tokens, kind, method="bottleneck")
        assert units.shape[-1] == (U if kind == "class" else 3)
        np.testing.assert_allclose(units, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["class", "patch"])
def test_the_mean_output_is_that_of_all_tokens(kind):
    found = comparison.mean_logits(TEACHER, TEACHER_PARAMS, UNITS.patches, kind)
    logits = TEACHER.apply({"params": TEACHER_PARAMS}, UNITS.patches, method=f"{kind}_logits")
    np.testing.assert_allclose(found, logits.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("views", "patches", "most", "slots"),
    [
        (4, 81, 10**9, 192),  # 4 * 0.3 + 2 * 2 * 0.1 = 1.6 views: 130 tokens, three tiles of 64
        (4, 80, 10**9, 128),  # 128 exactly
        (4, 100, 150, 150),
        (1, 20, 10**9, 20),  # of 10
        (4, 100, 0, 1),
    ],
)
def test_a_chunk_has_slots_for_two_standard_deviations_more_than_expected(
    views, patches, most, slots
):
    assert comparison.masked_capacity((0.3, 0.1), views, patches, most) == slots
