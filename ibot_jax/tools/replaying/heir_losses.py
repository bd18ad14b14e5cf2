"""Losses of DINOv2 and DINOv3 on made inputs, with gradients.

A file of the first kind holds, below `class/`, `teacher_logits` [steps, views, images, K] and what
came of them, step by step: targets by centers (`centered/STEP`, with `center_before/STEP`) and by
Sinkhorn and Knopp (`sinkhornTURNS/STEP`); and, weighted as in the total, losses of
`student_global` and `student_local`; below `patch/` the same of masked tokens; below `koleo/CASE/`
rows and their KoLeo; below `gram/` and `paka/` losses of likenesses, case by case, and below
`plusplus/` the patch loss of iBOT++. Gradients have names with `grad`.

One of the second kind holds the same of one batch on two processes, `rankR/...`, which have
different numbers of masked tokens; each process gets the gradient of the sum over both.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.losses.centering import teacher_probs, update_center
from ibot_jax.losses.class_tokens import class_loss
from ibot_jax.losses.gram import gram_loss, resize_patches
from ibot_jax.losses.koleo import koleo
from ibot_jax.losses.patch_kernels import patch_kernel_loss
from ibot_jax.losses.patches import patch_loss, patch_weights
from ibot_jax.losses.sinkhorn import sinkhorn_offsets
from ibot_jax.tools.replaying.recording import Deviation, Deviations, Kind, Recording, difference

TOLERANCE = 1e-9
TIED_TOLERANCE = 1e-7

Array = np.ndarray
_STUDENT_TEMP, _CENTER_MOMENTUM = 0.1, 0.9
_CHUNK = 5  # rows at a time, so that there are several chunks


def _replay(recording: Recording) -> Deviations:
    for part in _PARTS:
        for name, ours in _of_part(recording, part).items():
            theirs, ours = recording[f"{part}/{name}"], np.asarray(ours)
            quantity, tolerance = f"{part} {name}", TOLERANCE
            if name.startswith("zero_row/") and name.endswith("_top2"):
                # All others are equally far from a row of zeros: which ones are taken is chance.
                tolerance = TIED_TOLERANCE
                if ours.ndim:
                    others = recording[f"{part}/zero_row/input"].any(axis=1)
                    ours, theirs, quantity = ours[others], theirs[others], f"{quantity}, other rows"
            yield Deviation(quantity, difference(ours, theirs), tolerance)


def _of_part(recording: Recording, part: str) -> dict[str, Array]:
    try:
        return _PARTS[part](recording.below(f"{part}/"))
    except KeyError as error:
        raise recording.problem(f"it has no {part}/{error.args[0]}") from None


def _balanced(
    logits: Array, temp: float, turns: int, selected: Array | None = None, across: tuple = ()
) -> Array:
    """Returns the targets of rows [T, K]."""
    selected = jnp.ones(len(logits), bool) if selected is None else selected
    offsets, _ = sinkhorn_offsets(
        lambda rows: rows, logits, selected, temp, chunk=_CHUNK, turns=turns, across=across
    )
    return teacher_probs(logits, offsets, temp)


def _with_gradient(function: Callable, rows: Array, name: str, grad: str) -> dict[str, Array]:
    value, gradient = jax.value_and_grad(function)(jnp.asarray(rows))
    return {name: value, grad: gradient}


def _class_tokens(theirs: Mapping[str, Array]) -> dict[str, Array]:
    temps, found = theirs["temps"], {}
    center = jnp.zeros_like(theirs["center_before/0"])
    for step, logits in enumerate(theirs["teacher_logits"]):
        found[f"center_before/{step}"] = center
        found[f"centered/{step}"] = teacher_probs(logits, center, temps[step])
        rows = jnp.asarray(logits.reshape(-1, logits.shape[-1]))
        for turns in (1, 3):
            targets = _balanced(rows, temps[step], turns).reshape(logits.shape)
            found[f"sinkhorn{turns}/{step}"] = targets
        center = update_center(center, logits.mean((0, 1)), _CENTER_MOMENTUM)
    found[f"center_before/{step + 1}"] = center
    targets = jnp.asarray(found["sinkhorn3/0"]).swapaxes(0, 1)  # [B, G, K]
    number = len(logits)

    def loss(views, only):
        """The part of the pairs with other global views, or with local ones."""
        by_kind = {kind: theirs[f"student_{kind}"] for kind in ("global", "local")} | {only: views}
        student = jnp.concatenate(list(by_kind.values())).swapaxes(0, 1)
        of_global, of_all = (
            class_loss(student, targets, _STUDENT_TEMP, local_weight=weight).mean()
            for weight in (0.0, 1.0)
        )
        return of_global if only == "global" else of_all - of_global

    for only in ("global", "local"):
        losses = _with_gradient(
            functools.partial(loss, only=only), theirs[f"student_{only}"], only, f"{only}_grad"
        )
        found |= {f"v{version}_{name}": x for version in (2, 3) for name, x in losses.items()}

    def with_diagonal(views):
        """The mean over all pairs of global views: the others', and each with itself."""
        pairs = (views.swapaxes(0, 1), views[::-1].swapaxes(0, 1))
        return sum(class_loss(student, targets, _STUDENT_TEMP).mean() for student in pairs) / number

    name = "v3_global_with_diagonal"
    return found | _with_gradient(with_diagonal, theirs["student_global"], name, f"{name}_grad")


def _patches(theirs: Mapping[str, Array]) -> dict[str, Array]:
    """Of the masked tokens of views, one after the other; the teacher's center is 0 before."""
    logits, temp, masks = theirs["teacher_logits"], theirs["temp"], theirs["mask"]
    center = jnp.zeros(logits.shape[-1])
    found = {
        "centered": teacher_probs(logits, center, temp),
        "center_after": update_center(center, logits.mean(axis=0), _CENTER_MOMENTUM),
        "index": np.flatnonzero(masks),
        "weight": patch_weights(masks[None], np.float64)[0][masks] * len(masks),
    }
    found |= {f"sinkhorn{turns}": _balanced(jnp.asarray(logits), temp, turns) for turns in (1, 3)}
    rows = jnp.pad(logits, ((0, 5), (0, 0)))
    stayed = _balanced(rows, temp, 3)
    found["sinkhorn3_if_5_zero_rows_stayed"] = stayed[: len(logits)]
    weights = patch_weights(masks[None], np.float64)[0][masks]
    loss = functools.partial(
        patch_loss, targets=found["sinkhorn3"], weights=weights, student_temp=_STUDENT_TEMP
    )
    for name in ("loss", "loss_v3", "loss_no_weights_given"):
        found |= _with_gradient(loss, theirs["student_logits"], name, f"{name}_grad")
    return found


def _koleo(theirs: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    for case in sorted({name.partition("/")[0] for name in theirs}):
        rows = theirs[f"{case}/input"]
        for name in ("", "_v3", "_top2", "_lightly"):
            nearest = 2 if name == "_top2" else 1
            found |= _with_gradient(
                lambda rows, nearest=nearest: koleo(rows, len(rows), nearest)[0],
                rows,
                f"{case}/loss{name}",
                f"{case}/grad{name}",
            )
    return found


_NEGATIVES = {"keep": "keep", "remove": "drop", "teacher_only": "drop_teacher"}


def _gram(theirs: Mapping[str, Array]) -> dict[str, Array]:
    """A case is named by its options, NAME=VALUE between commas."""
    found, mask = {}, theirs["mask"]
    for case in sorted({name.removesuffix("/grad") for name in theirs if "normalized=" in name}):
        options = dict(option.split("=") for option in case.split(","))
        tokens = options.get("tokens")
        loss = functools.partial(
            gram_loss,
            teacher=jnp.asarray(theirs["teacher"]),
            used=jnp.asarray(mask if tokens == "masked" else ~mask) if tokens else None,
            level="image" if options["img_level"] == "True" else "batch",
            negatives=_NEGATIVES[options.get("negatives", "keep")],
            normalize=options["normalized"] == "True",
        )
        found |= _with_gradient(loss, theirs["student"], case, f"{case}/grad")
    large = theirs["resize/tokens_8x8"].reshape(2, 8, 8, -1)
    for antialias in (False, True):
        small = resize_patches(jnp.asarray(large), (4, 4), antialias)
        found[f"resize/tokens_4x4,antialias={antialias}"] = small.reshape(2, 16, -1)
    return found


def _visible(theirs: Mapping[str, Array]) -> dict[str, Array]:
    """iBOT++; without a mask all tokens count as visible ones."""
    found, mask, shape = {}, theirs["mask"][:, None], theirs["student_logits"].shape
    teacher, center = theirs["teacher_logits"], jnp.zeros(shape[-1])
    moved = update_center(center, teacher.mean((0, 1)), _CENTER_MOMENTUM)
    cases = {f"visible_weight={weight:g}": (mask, weight, center) for weight in (1.0, 0.3, 0.0)}
    cases |= {"no_mask": (mask & False, 1.0, center), "second_call": (mask, 1.0, moved)}
    for case, (masked, weight, before) in cases.items():
        targets = teacher_probs(teacher, before, theirs["teacher_temp"])
        weights = patch_weights(jnp.asarray(masked), np.float64, weight).reshape(shape[:-1])
        loss = functools.partial(
            patch_loss, targets=targets, weights=weights, student_temp=_STUDENT_TEMP
        )
        losses = _with_gradient(loss, theirs["student_logits"], case, f"{case}/grad")
        losses[f"{case}/center_after"] = moved
        found |= {name: x for name, x in losses.items() if name in theirs}
    return found


def _patch_kernels(theirs: Mapping[str, Array]) -> dict[str, Array]:
    found, student = {}, theirs["student"]
    teacher, used = jnp.asarray(theirs["teacher"]), jnp.asarray(~theirs["ignored"])
    for case, rows, valid in (
        ("all", student, None),
        ("ignored_left_out", student, used),
        ("constant_student", np.ones_like(student), None),
    ):
        loss = functools.partial(patch_kernel_loss, teacher=teacher, used=valid)
        found |= _with_gradient(loss, rows, case, f"{case}/grad")
    del found["constant_student/grad"]  # which is nothing but rounding there
    return found


_PARTS = {"class": _class_tokens, "patch": _patches, "koleo": _koleo}
_PARTS |= {"gram": _gram, "plusplus": _visible, "paka": _patch_kernels}


def _replay_processes(recording: Recording) -> Deviations:
    """Replays both processes by a mapped axis in place of them."""
    ranks = sorted({name.partition("/")[0] for name in recording.names})
    of_ranks = [recording.below(f"{rank}/") for rank in ranks]
    for name, values in _of_processes(of_ranks).items():
        for rank, ours, theirs in zip(ranks, values, of_ranks, strict=True):
            found = difference(np.asarray(ours), theirs[name])
            yield Deviation(f"{rank} {name}", found, TOLERANCE)


def _of_processes(ranks: list[dict[str, Array]]) -> dict[str, list[Array]]:
    """Returns what each process has, by name."""
    axis, found = "process", {}
    temp, turns = 0.06, 3
    for kind in ("class", "patch"):
        logits = [rank[f"{kind}/logits"] for rank in ranks]
        numbers = np.array([len(rows) for rows in logits])
        most = numbers.max()
        rows = np.stack([np.pad(x, ((0, most - len(x)), (0, 0))) for x in logits])
        selected = np.arange(most) < numbers[:, None]
        targets = jax.vmap(
            lambda rows, selected: _balanced(rows, temp, turns, selected, (axis,)), axis_name=axis
        )(rows, selected)
        targets = [x[:number] for x, number in zip(targets, numbers, strict=True)]
        # Theirs is the mean of the processes' means, whatever their numbers.
        mean = np.mean([x.mean(axis=0) for x in logits], axis=0)
        center = update_center(np.zeros_like(mean), mean, _CENTER_MOMENTUM)
        for version in ("v2", "v3"):
            found[f"{kind}/sinkhorn_{version}"] = targets
            found[f"{kind}/center_{version}"] = [center] * len(ranks)
    found["patch/masked_in_all"] = [numbers.sum(keepdims=True)] * len(ranks)
    rows = jnp.stack([rank["koleo/input"] for rank in ranks])
    number = rows.shape[1]
    for name, group, nearest in (
        ("local_v2", number, 1),
        ("groups_of_one_process", number, 1),
        ("all", number * len(ranks), 1),
        ("all_top2", number * len(ranks), 2),
    ):
        spread = functools.partial(koleo, group=group, nearest=nearest, across=(axis,))

        def losses(rows, spread=spread):
            return jax.vmap(lambda rows: spread(rows)[0], axis_name=axis)(rows)

        found[f"koleo/{name}"] = list(losses(rows))
        found[f"koleo/{name}/grad"] = list(jax.grad(lambda rows, f=losses: f(rows).sum())(rows))
    return found


KIND = Kind("losses of DINOv2 and DINOv3", lambda r: r.has("koleo/plain/"), _replay)
PROCESSES = Kind(
    "losses of DINOv2 and DINOv3 on two processes", lambda r: r.has("rank0/"), _replay_processes
)
