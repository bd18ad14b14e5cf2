"""A backbone applied: its outputs from recorded images and parameters.

A file holds `params/NAME` and, for each SIZE (a side, or HEIGHTxWIDTH), `SIZE/image` [B, 3, H, W]
and `SIZE/mask`, and what came out: `tokens` and `tokens_masked` [B, 1 + N, D], class token first;
`lastN` [N, B, 1 + N, D], the last N layers, normalised; `block/I`, every block's tokens;
`last_attention`; and `linear_avgpoolA`, what linear evaluation makes of the last four blocks.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.config.section import Section
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.build import build_backbone
from ibot_jax.models.parameters import Params
from ibot_jax.tools.replaying.recording import (
    Deviation,
    Deviations,
    Kind,
    Recording,
    difference,
)
from ibot_jax.tools.replaying.settings import model_of, unknown_settings
from ibot_jax.weights.foreign import original_names

# Of what was recorded in float64, and in float32.
TOLERANCES = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-6}

_LINEAR_BLOCKS = 4


def takes(recording: Recording) -> bool:
    """Returns whether a recording is of a backbone of the original."""
    settings = recording.settings
    return recording.has("params/") and "embed_dim" in settings and "registers" not in settings


def replay(recording: Recording) -> Deviations:
    """Applies the backbone in float64 at every size.

    Raises:
      UserError: for what is missing in the file, and what is not there yet.
    """
    config = model_of(recording)
    model = build_backbone(config.model, config.data.global_size, config.dtype)
    params = _params(recording, model, config)
    sizes = sorted(name.removesuffix("/image") for name in recording.names if "/image" in name)
    if not sizes:
        raise recording.problem("it has no SIZE/image")
    for size in sizes:
        theirs = recording.below(f"{size}/")
        images = theirs.pop("image").transpose(0, 2, 3, 1).astype(np.float64)
        mask = theirs.pop("mask", None)
        depth = geometry_of(config.model).depth
        ours = _outputs(model, params, images, mask, depth)
        if other := theirs.keys() - ours.keys():
            raise recording.problem(f"{size}/{min(other)} is nothing that a backbone gives here")
        for name, array in theirs.items():
            tolerance = TOLERANCES.get(array.dtype, max(TOLERANCES.values()))
            found = ours[name]
            if name == "last_attention":  # of several windows [B * windows, ...] in the file
                found = found.reshape(-1, *found.shape[-3:])
            yield Deviation(f"{size} {name}", difference(found, array), tolerance)


KIND = Kind("a backbone of the original, applied", takes, replay, unknown_settings)


def _params(recording: Recording, model: nn.Module, config: Section) -> Params:
    tensors = {
        f"backbone.{name}": tensor.astype(np.float64)
        for name, tensor in recording.below("params/").items()
        if not name.startswith("head.")  # a classifier that the original does not use
    }
    try:
        params = original_names.to_flax(tensors, True)["backbone"]
    except KeyError as error:
        raise recording.problem(f"it has {error}, which no model here has") from None
    image = jnp.zeros((1, *config.data.global_size, config.data.channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, shapes):
        raise recording.problem("its params are not of the model that its config describes")
    return params


def _outputs(
    model: nn.Module, params: Params, images: np.ndarray, mask: np.ndarray | None, depth: int
) -> dict[str, np.ndarray]:
    """Returns the outputs by their recorded names, masked ones only with a mask."""

    @jax.jit
    def apply(params, images, mask):
        run = functools.partial(model.apply, {"params": params}, images)
        layers = run(range(depth), method="layers")
        attention = run(method="attention").weights
        return run(), None if mask is None else run(mask), layers, attention

    tokens, masked, layers, attention = apply(params, images, mask)
    found = {"tokens": tokens.sequence, "last_attention": attention}
    if masked is not None:
        found["tokens_masked"] = masked.sequence
    for number, of_layer in enumerate(layers):
        found[f"block/{number}"] = of_layer.sequence
    if len({of_layer.cls.shape for of_layer in layers}) == 1:
        sequences = np.stack([of_layer.sequence for of_layer in layers])
        found |= {f"last{n}": sequences[-n:] for n in range(1, depth + 1)}
    classes = [of_layer.cls for of_layer in layers[-_LINEAR_BLOCKS:]]
    mean = layers[-1].patches.mean(axis=(1, 2))
    for name, parts in enumerate((classes, [mean], [*classes, mean])):
        found[f"linear_avgpool{name}"] = np.concatenate(parts, axis=1)
    return {name: np.asarray(array) for name, array in found.items()}
