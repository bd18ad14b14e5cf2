"""Blocks of DINOv2 and DINOv3 that skip samples, with what was drawn; and rotary positions.

A file holds, below `drop/rate=R,batch=B/`, `input` [B, T, D] and `second_input`, and for each
program its block's `params/NAME`, the permutations that it drew in turn, `permutation/I`, of which
the first `kept` samples stay, and the outputs in training and, `output_eval`, else. DINOv3 takes
both inputs at once, and draws for attention of both first. Below `rope/` are `shift` [2],
`log_jitter` [2] and `log_rescale` [1] as drawn, and `sin` and `cos` of 3 x 5 patches.
"""

import jax.numpy as jnp
import numpy as np

from ibot_jax.kernels.choice import XLA
from ibot_jax.models.block import Block
from ibot_jax.models.rope import Rope
from ibot_jax.tools.replaying.recording import Deviation, Deviations, Kind, Recording, difference
from ibot_jax.weights.foreign import original_names

TOLERANCE = 1e-9

_HEADS, _EPSILON, _GRID = 2, 1e-5, (3, 5)
# By program: each input's permutations, for attention and for the feed-forward network.
_DRAWN = {"dinov2": {"": (0, 1)}, "dinov3": {"": (0, 2), "second_": (1, 3)}}


def _replay(recording: Recording) -> Deviations:
    settings = {name.split("/")[1] for name in recording.names if name.startswith("drop/")}
    for setting in sorted(settings):
        for program in _DRAWN:
            yield from _compare_block(recording, f"drop/{setting}/", program)
    if recording.has("rope/"):
        yield from _compare_rotations(recording)


def _compare_block(recording: Recording, prefix: str, program: str) -> Deviations:
    theirs = recording.below(f"{prefix}{program}/")
    names = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    params = {
        f"backbone.blocks.0.{names.get(name, name)}": tensor
        for name, tensor in recording.below(f"{prefix}{program}/params/").items()
    }
    params = original_names.to_flax(params, True)["backbone"]["blocks_0"]
    block = Block(
        heads=_HEADS,
        hidden_dim=params["mlp"]["fc2"]["kernel"].shape[0],
        layer_scale=1.0,  # only its presence counts here
        norm_eps=_EPSILON,
        kernels=XLA,
        dtype=jnp.float64,
        param_dtype=jnp.float64,
    )
    rate = float(prefix.partition("rate=")[2].partition(",")[0])
    for which, drawn in _DRAWN[program].items():
        x = jnp.asarray(recording[f"{prefix}{which}input"])
        kept = max(int(len(x) * (1 - rate)), 1)
        order = [np.argsort(theirs[f"permutation/{number}"]) for number in drawn]
        gains = jnp.asarray(np.where(np.array(order) < kept, len(x) / kept, 0.0))
        ours = {f"{which}output": block.apply({"params": params}, x, gains[..., None, None])}
        if not which:
            ours |= {"kept": kept, "output_eval": block.apply({"params": params}, x)}
        for name, array in ours.items():
            found = difference(np.asarray(array), theirs[name])
            yield Deviation(f"{prefix}{program}/{name}", found, TOLERANCE)


def _compare_rotations(recording: Recording) -> Deviations:
    theirs = recording.below("rope/")
    logs = theirs["log_jitter"] + theirs["log_rescale"]
    noise = jnp.stack([theirs["shift"], jnp.exp(logs)])
    rope = Rope(4 * len(theirs["periods"]))
    ours = dict(zip(("cos", "sin"), rope.table(_GRID, jnp.float64, noise), strict=True))
    for name, array in (ours | {"periods": rope.all_periods()}).items():
        yield Deviation(f"rope/{name}", difference(np.asarray(array), theirs[name]), TOLERANCE)


KIND = Kind(
    "blocks that skip samples, and rotary positions, of DINOv2 and DINOv3",
    lambda recording: recording.has("drop/"),
    _replay,
)
