"""From another project's tensors to this project's model, with every tensor accounted for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ibot_jax import models
from ibot_jax.convert import torch_names
from ibot_jax.convert.accounting import account, joint_shape, neutral
from ibot_jax.convert.architecture import REQUIRED, Known, infer_config
from ibot_jax.convert.contents import Contents, Tensors
from ibot_jax.convert.dialects import Dialect, FileNames
from ibot_jax.convert.torch_reader import StoredTensor
from ibot_jax.errors import UserError
from ibot_jax.models.layer_norm import LAYER_NORM_EPSILON


@dataclasses.dataclass(frozen=True)
class Taken:
    """One set of tensors, converted.

    Attributes:
      config: the default config with the sections `model`, `head` and `data` as found.
      params: {"backbone": ..., and by option "head": ...}.
      dialect: whose names the tensors had.
      notes: what a person should know: neutral values, tensors left out.
    """

    config: ConfigDict
    params: torch_names.Params
    dialect: Dialect
    notes: tuple[str, ...]


def take(contents: Contents, who: str, path: str, known: Known, *, head: bool) -> Taken:
    """Converts one set of tensors.

    Args:
      contents: of the file.
      who: a key of `contents.sets`.
      path: of the file, for messages.
      known: what the user says of the model.
      head: whether the projection head comes too.

    Raises:
      UserError: if it is no Vision Transformer as this project has them, or if a tensor is missing,
        left over or of another shape and not allowed to be; the message names it as the file does.
    """
    tensors = contents.sets[who]
    names = FileNames.of(tensors, path)
    if head and not names.has_head:
        raise UserError(f"{path} holds no projection head; leave --head out")
    found = {
        name: names.find(name)
        for name in torch_names.all_names(names.depth)
        if head or not name.startswith("head.")
    }
    shapes = {
        name: joint_shape([tensors[part].shape for part in parts])
        for name, parts in found.items()
        if all(part in tensors for part in parts)
    }
    for name in REQUIRED:
        if name not in shapes:
            raise UserError(
                f"{path} lacks {', '.join(found[name])}, which no model here is without"
            )
    config = infer_config(shapes, contents.facts, known, path, depth=names.depth)
    student = who == "student"
    if head:
        last = {name: _read(tensors, found[name], path) for name in shapes if "last_layer" in name}
        _infer_last_layers(config, last, contents.facts.get("args", {}), student=student)
    shared = config.head.shared
    expected = expected_shapes(config, head=head, student=student)
    if shared:  # written twice by the original, once by DINO
        expected = {name: shape for name, shape in expected.items() if "last_layer2" not in name}
    notes = account(names, tensors, expected, path, known.allow) + _epsilon(contents.facts)
    values = {
        name: _read(tensors, found[name], path).reshape(shape)
        if name in shapes
        else neutral(name, shape)
        for name, shape in expected.items()
    }
    return Taken(config, torch_names.to_flax(values, shared), names.dialect, tuple(notes))


def _infer_last_layers(
    config: ConfigDict,
    values: Mapping[str, np.ndarray],
    args: Mapping[str, Any],
    *,
    student: bool,
) -> None:
    """Sets whether class and patch tokens share the last layer, and whether its norms are 1.

    Args:
      config: to be changed.
      values: of the last layers' tensors, by the original's names.
      args: of the original's run.
      student: whose last layers they are.
    """
    pairs = [
        (f"head.last_layer.{leaf}", f"head.last_layer2.{leaf}") for leaf in ("weight_g", "weight_v")
    ]
    if not any(second in values for _, second in pairs):
        said = args.get("shared_head", True)
        shared = said if student else args.get("shared_head_teacher", said)
    else:
        shared = all(
            first in values and second in values and np.array_equal(values[first], values[second])
            for first, second in pairs
        )
    config.head.shared = config.head.shared_teacher = bool(shared)
    config.head.norm_last_layer = bool(np.all(values.get(pairs[0][0], 1) == 1))


def expected_shapes(config: ConfigDict, *, head: bool, student: bool) -> dict[str, tuple[int, ...]]:
    """Returns the original's names and shapes of all tensors of a model."""

    def init():
        image = jnp.zeros((1, *config.data.global_size, config.data.channels))
        params = {
            "backbone": models.build_backbone(config).init(jax.random.key(0), image)["params"]
        }
        if head:
            module = models.build_head(config, teacher=not student)
            token = jnp.zeros((1, config.model.width))
            params["head"] = module.init(jax.random.key(0), token)["params"]
        return params

    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), jax.eval_shape(init))
    tensors = torch_names.to_torch(zeros, config.model.patch_size)
    return {name: tensor.shape for name, tensor in tensors.items()}


def _epsilon(facts: Mapping[str, Any]) -> list[str]:
    """Returns a note if the model was made with another epsilon in its LayerNorms than here."""
    epsilon = facts.get("epsilon")
    if epsilon is None or epsilon == LAYER_NORM_EPSILON:
        return []
    return [f"LayerNorm's epsilon is {epsilon:g} there and {LAYER_NORM_EPSILON:g} here"]


def _read(tensors: Tensors, parts: Sequence[str], path: str) -> np.ndarray:
    return np.concatenate([read_tensor(tensors[part], part, path) for part in parts])


def read_tensor(tensor: StoredTensor | np.ndarray, name: str, path: str) -> np.ndarray:
    """Returns a tensor as float32, or float64 where it is that.

    Raises:
      UserError: if it is damaged, or holds no floating-point numbers.
    """
    if isinstance(tensor, StoredTensor):
        try:
            tensor = tensor.read()
        except Exception as error:  # what a file may say of shapes and places has no end
            raise UserError(f"{path} is damaged: {name} cannot be read ({error})") from error
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise UserError(
            f"{path} holds {name} as {tensor.dtype}; weights are floating-point numbers"
        )
    return tensor.astype(np.promote_types(tensor.dtype, np.float32))
