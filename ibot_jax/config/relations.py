"""What several keys of a run must have in common, whatever data, devices and model."""

from collections.abc import Iterator

from ibot_jax.config import durations
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat
from ibot_jax.config.host import MOST_PER_CORE, num_cores
from ibot_jax.config.masking import DEALT
from ibot_jax.config.plan import peak_rate
from ibot_jax.config.problems import stated

# Methods with terms or targets that relate the images of a batch.
_OF_BATCHES = ("dinov2", "distillation")
_MOST_PROTOTYPES = 1000  # for each class token of a batch; of DINOv2's and DINOv3's recipes 32


def _check_lengths(flat: Flat) -> Iterator[str]:
    channels = flat["data.channels"]
    for key in ("data.mean", "data.std"):
        if len(flat[key]) != channels:
            problem = (
                f"needs data.channels={channels} entries, and has {len(flat[key])}; python -m "
                "ibot_jax.tools.data SOURCE prints those of your images"
            )
            yield stated(flat, key, problem)


def _check_channels(flat: Flat) -> Iterator[str]:
    channels = flat["data.channels"]
    if flat["data.bands"] and channels < 2:
        yield stated(flat, "data.bands", "needs data.channels of 2 or more; set it to False")
    bands = channels > 4 or flat["data.bands"]
    kind = f"data.channels={channels}" + " and data.bands" * flat["data.bands"]
    for key in ("data.saturation", "data.hue", "data.gray"):
        if flat[key] not in (0, KEYS[key].default) and (bands or channels < 3):
            yield stated(
                flat, key, f"is of colours, which images of {kind} have none of; set it to 0"
            )
    low, high = flat["data.clip_percentiles"]
    if high and not low < high:
        problem = "are the same percentile; write 1,99, or 0,0 to go by data.range"
        yield stated(flat, "data.clip_percentiles", problem)


def check_workers(flat: Flat) -> Iterator[str]:
    """Yields a sentence if there are far more processes than cores."""
    cores = num_cores()
    if flat["data.workers"] > cores * MOST_PER_CORE:
        problem = (
            f"is more than {MOST_PER_CORE} for each of the {cores} cores there are; use 0 "
            "for one a core"
        )
        yield stated(flat, "data.workers", problem)


def check_rates(flat: Flat) -> Iterator[str]:
    """Yields a sentence if the learning rate would rise where it is meant to fall."""
    scaling = flat.get("optim.lr_scaling", "linear")  # a fine-tuning has no other
    peak = peak_rate(flat["optim.lr"], flat["batch_size"], scaling)
    if flat["optim.min_lr"] > peak * (1 + 1e-6):
        factor = {"linear": " x batch_size / 256", "sqrt": " x sqrt(batch_size / 256)"}
        problem = (
            f"is above the learning rate that it ends, optim.lr={flat['optim.lr']}"
            f"{factor.get(scaling, '')} = {peak:.4g}; lower the one or raise the other"
        )
        yield stated(flat, "optim.min_lr", problem)


def _check_schedule(flat: Flat) -> Iterator[str]:
    shape = flat["optim.schedule"]
    if durations.parse(flat["optim.cooldown"])[0] and shape != "constant":
        yield stated(flat, "optim.cooldown", f'needs optim.schedule="constant", not {shape!r}')
    if flat["optim.trunc_extra"]:
        if shape != "cosine":
            problem = f'needs optim.schedule="cosine", not {shape!r}'
            yield stated(flat, "optim.trunc_extra", problem)
        if flat["optim.schedule_end"] != "included":
            problem = 'ends at the last step; set optim.schedule_end="included"'
            yield stated(flat, "optim.trunc_extra", problem)


def _check_optimizer(flat: Flat) -> Iterator[str]:
    for key in ("optim.betas", "optim.eps"):
        if flat["optim.name"] != "adamw" and flat[key] != KEYS[key].default:
            problem = f"is of AdamW, not of optim.name={flat['optim.name']!r}; leave it out"
            yield stated(flat, key, problem)
    if flat["optim.clip_by"] != "tensor" and not flat["optim.clip"]:
        yield stated(flat, "optim.clip_by", "needs a positive optim.clip")


def check_lora(flat: Flat) -> Iterator[str]:
    """Yields what is wrong with the section `lora`."""
    rank = flat["lora.rank"]
    for key in ("lora.alpha", "lora.targets"):
        if not rank and flat[key] != KEYS[key].default:
            yield stated(flat, key, "needs a positive lora.rank")
    if rank and not flat["lora.targets"].split():
        yield stated(flat, "lora.targets", f"names no layer; use {KEYS['lora.targets'].default!r}")


def _check_adapted(flat: Flat) -> Iterator[str]:
    if flat["lora.rank"] and not flat["init_from"]:
        yield stated(flat, "lora.rank", "trains adapters of a backbone; give init_from its weights")


def _check_losses(flat: Flat) -> Iterator[str]:
    if not flat["loss.class_weight"] + flat["loss.patch_weight"]:
        problem = "and loss.patch_weight are both 0; make one of them positive"
        yield stated(flat, "loss.class_weight", problem)


def _check_balance(flat: Flat) -> Iterator[str]:
    if flat["loss.targets"] != "sinkhorn":
        return
    key = "loss.targets"
    yield from _of_whole_batches(flat, key)
    tokens = flat["batch_size"] * flat["data.global_views"]
    of_each = flat["head.prototypes"] / tokens
    if of_each > _MOST_PROTOTYPES:
        problem = (
            f"shares head.prototypes={flat['head.prototypes']} among the {tokens} class tokens of "
            f"a batch, {of_each:,.0f} for each: its targets tell nothing; use at most "
            f"{tokens * _MOST_PROTOTYPES} prototypes, or raise batch_size"
        )
        yield stated(flat, key, problem)


def _check_koleo(flat: Flat) -> Iterator[str]:
    if not flat["loss.koleo_weight"]:
        return
    yield from _of_whole_batches(flat, "loss.koleo_weight")
    size, nearest = flat["batch_size"], flat["loss.koleo_nearest"]
    group = flat["loss.koleo_group"] or size
    if size % group:
        problem = f"does not divide batch_size={size}; use a divisor, or 0 for the whole batch"
        yield stated(flat, "loss.koleo_group", problem)
    elif group <= nearest:
        key = "loss.koleo_group" if flat["loss.koleo_group"] else "batch_size"
        problem = (
            f"leaves an image {group - 1} others, and loss.koleo_nearest={nearest} are sought; use "
            f"{nearest + 1} or more"
        )
        yield stated(flat, key, problem)


def _of_whole_batches(flat: Flat, key: str) -> Iterator[str]:
    """Yields a sentence if a key relates images to each other that are not seen together."""
    if flat["method"] not in _OF_BATCHES:
        problem = f'is of method="{_OF_BATCHES[0]}", not {flat["method"]!r}; change one of them'
        yield stated(flat, key, problem)
    if flat["grad_accum_steps"] > 1:
        parts = flat["grad_accum_steps"]
        problem = f"relates all images of a batch, which grad_accum_steps={parts} takes apart"
        yield stated(flat, key, f"{problem}; set that to 1")


_OF_AN_EARLIER_TEACHER = (
    "frozen.gram",
    *(f"gram.{name}" for name in ("start", "every", "updates", "scale", "colors")),
)


def _check_gram(flat: Flat) -> Iterator[str]:
    gram = {key: flat[key] for key in KEYS if key.startswith("gram.")} | {
        "frozen.gram": flat["frozen.gram"]
    }
    current = gram["gram.teacher"] == "current"
    for key, value in gram.items():
        if value == KEYS[key].default:
            continue
        if not gram["gram.weight"]:
            yield stated(flat, key, "needs a positive gram.weight")
        elif current and key in _OF_AN_EARLIER_TEACHER:
            yield stated(flat, key, 'needs gram.teacher="earlier"')
    if gram["gram.tokens"] != "all" and gram["gram.level"] != "batch":
        yield stated(flat, "gram.tokens", 'needs gram.level="batch": views have different numbers')
    if gram["gram.updates"] and not gram["gram.every"]:
        yield stated(flat, "gram.updates", "needs gram.every, the time between them")


def _check_kind_of_masks(flat: Flat) -> Iterator[str]:
    kind, dealt = flat["masks.kind"], flat["masks.kind"] in DEALT
    for name in ("ratios", "variances") if dealt else ("share", "range", "shift"):
        key = f"masks.{name}"
        if flat[key] != KEYS[key].default:
            others = " and ".join(repr(x) for x in (("block", "random") if dealt else DEALT))
            problem = f"is for masks.kind {others}, not {kind!r}; leave it at {KEYS[key].default!r}"
            yield stated(flat, key, problem)
    views = flat["batch_size"] * flat["data.global_views"]
    if dealt and int(views * flat["masks.share"]) < 1:
        problem = f"of a batch's {views} global views is none; use at least {1 / views:.3g}"
        yield stated(flat, "masks.share", problem)


def _check_masks(flat: Flat) -> Iterator[str]:
    key, ratios, variances = "masks.ratios", flat["masks.ratios"], flat["masks.variances"]
    if not 0 < len(ratios) == len(variances):
        problem = f"and masks.variances={variances!r} need as many entries, at least one"
        yield stated(flat, key, problem)
        return
    for ratio, variance in zip(ratios, variances, strict=True):
        if ratio < variance:
            problem = (
                f"has {ratio} below its variance {variance}, so that a view could draw a negative "
                "ratio; raise the ratio or lower masks.variances"
            )
            yield stated(flat, key, problem)
        if ratio + variance > 1:
            problem = (
                f"has {ratio} which with its variance {variance} passes 1; lower it or "
                "masks.variances"
            )
            yield stated(flat, key, problem)


def _check_views(flat: Flat) -> Iterator[str]:
    num_local = flat["data.local_views"]
    if flat["data.global_views"] + num_local < 2:
        problem = f"and data.local_views={num_local} make one view; the class loss compares two"
        yield stated(flat, "data.global_views", f"{problem}; raise one of them")


def _check_high_res(flat: Flat) -> Iterator[str]:
    keys = [f"high_res.{name}" for name in ("global_sides", "local_sides", "shares")]
    if not flat["high_res.last"]:
        for key in keys:
            if flat[key] != KEYS[key].default:
                yield stated(flat, key, "needs high_res.last, the length of that part of the run")
        return
    number = len(flat[keys[0]])
    for key in keys[1:]:
        if not 0 < number == len(flat[key]):
            problem = f"and {keys[0]}={flat[keys[0]]!r} need as many entries, at least one"
            yield stated(flat, key, problem)


def _check_resize(flat: Flat) -> Iterator[str]:
    size = flat["data.global_size"]
    if flat["knn.every"] and flat["knn.resize"] < max(size):
        problem = (
            f"is smaller than data.global_size={size}, which is cropped from it; enlarge it, or "
            'turn evaluations off with knn.every=""'
        )
        yield stated(flat, "knn.resize", problem)


RELATIONS = (
    _check_lengths,
    _check_channels,
    check_workers,
    check_rates,
    _check_schedule,
    _check_optimizer,
    check_lora,
    _check_adapted,
    _check_losses,
    _check_balance,
    _check_koleo,
    _check_masks,
    _check_kind_of_masks,
    _check_gram,
    _check_views,
    _check_high_res,
    _check_resize,
)
