"""Schedules, scaling rules and patch embeddings of DINOv2 and DINOv3.

A file holds `schedules`, JSON: the arguments of each by its name; `cosine/NAME`, whose last values
are those past the end, and `v2/NAME`, DINOv3's second kind, which has its warm-up without the end
point and its cosine with both ends; `scaling/{batch,RULE}`, rates for a base of 1e-3; and
`expand/weight` [D, C, p, p], filters of a patch embedding, with `expand/N`, those for N channels,
or without the scale by which images look the same.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ibot_jax.config.plan import peak_rate
from ibot_jax.models.adapt import channel_shares
from ibot_jax.optim.schedules import Schedule, cosine, warmed_up
from ibot_jax.tools.replaying.recording import Deviation, Deviations, Kind, Recording, difference

TOLERANCE = 1e-9

# By rule: its name here, and what a base rate is multiplied by to be the rate for 256 images.
_RULES = {
    "dinov2_sqrt_wrt_1024": ("sqrt", 0.5),
    "dinov3_sqrt_wrt_1024": ("sqrt", 2.0),
    "dinov3_linear_wrt_256": ("linear", 1.0),
}
_BASE = 1e-3


def _replay(recording: Recording) -> Deviations:
    for name, told in json.loads(str(recording["schedules"])).items():
        kind, schedule = ("v2", _second) if "peak" in told else ("cosine", _first)
        theirs = recording[f"{kind}/{name}"]
        steps = np.arange(told["total"])
        ours = [float(schedule(told)(jnp.float64(step))) for step in steps]
        ours += [told.get("final", told.get("end"))] * (len(theirs) - len(ours))
        yield Deviation(f"{kind}/{name}", difference(np.array(ours), theirs), TOLERANCE)
    for rule, (scaling, factor) in _RULES.items():
        batches = recording["scaling/batch"]
        ours = [peak_rate(_BASE * factor, size, scaling) for size in batches]
        found = difference(np.array(ours), recording[f"scaling/{rule}"])
        yield Deviation(f"scaling/{rule}", found, TOLERANCE)
    yield from _compare_filters(recording)


def _first(told: Mapping[str, Any]) -> Schedule:
    frozen, extra = told.get("freeze_iters", 0), told.get("trunc_extra", 0.0)
    warmup, total = told.get("warmup_iters", 0), told["total"] - frozen
    falling = cosine(told["base"], told["final"], warmup, total - bool(extra), extra)
    start = told.get("start_warmup_value", 0.0)
    return _from(frozen, warmed_up(falling, told["base"], warmup, start=start))


def _from(first: int, schedule: Schedule) -> Schedule:
    return lambda step: jnp.where(step < first, 0, schedule(step - first))


def _second(told: Mapping[str, Any]) -> Schedule:
    warmup, peak, end = (told[name] for name in ("warmup", "peak", "end"))
    last = warmup + told.get("cosine_iterations", told["total"] - warmup) - 1
    falling = cosine(peak, end, warmup, max(last, warmup + 1))  # one point is the peak
    whole = warmed_up(falling, peak, warmup, start=told["start"], end=False)
    return lambda step: jnp.where(step > last, end, whole(step))


def _compare_filters(recording: Recording) -> Deviations:
    filters = recording["expand/weight"]
    old = filters.shape[1]
    for name in sorted(recording.below("expand/")):
        if name == "weight":
            continue
        number, _, plain = name.partition(",")
        entries = [*range(old), *["mean"] * (int(number) - old)]
        ours = np.einsum("nc,dcyx->dnyx", channel_shares(entries, old), filters)
        if plain:
            ours *= int(number) / old
        yield Deviation(f"expand/{name}", difference(ours, recording[f"expand/{name}"]), TOLERANCE)


KIND = Kind(
    "schedules, scaling rules and patch embeddings of DINOv2 and DINOv3",
    lambda recording: recording.has("cosine/"),
    _replay,
)
