"""Trained models, from wherever they lie: a run, one of its checkpoints, or an export.

model, params = ibot_jax.load("runs/mine")
tokens = model.tokens(params, images)  # uint8 [B, H, W, 3] to float32 [B, 1 + N, D]
"""

import dataclasses
import functools
import json
import types
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from ibot_jax import forward, models
from ibot_jax.config import get_config
from ibot_jax.config_check import flatten
from ibot_jax.errors import UserError
from ibot_jax.models.head import Head
from ibot_jax.models.vit import ViT
from ibot_jax.optimizer import Params
from ibot_jax.saved import find_checkpoint, read_params
from ibot_jax.workdir import absolute_path, read_config

# What an export says of the data that its model was trained for; see `export.describe`.
DESCRIBED_DATA = ("global_size", "channels", "mean", "std")
PARAMS, CONFIG = "params", "config.json"  # what an Orbax export consists of


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A Vision Transformer and how it sees images; parameters are passed to each call.

    Images are [B, H, W, C], uint8 or floating and normalised, of any height and width: positions
    are resampled for sizes other than that of the training. All methods are pure and may be jitted.

    Attributes:
      config: of a run, of which the sections `model`, `head` and `data` describe the model.
      name: where it is from, for people.
      facts: what else is known of it: `weights` ("teacher" or "student"), `step`, `knn_top1`.
    """

    config: ConfigDict
    name: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def backbone(self) -> ViT:
        """The Linen module of the backbone, for `params["backbone"]`."""
        return models.build_backbone(self.config)

    @functools.cached_property
    def head(self) -> Head:
        """The Linen module of the projection head, for `params["head"]`, where that is there."""
        return models.build_head(self.config, teacher=self.facts.get("weights") != "student")

    def tokens(self, params: Params, images: jax.Array) -> jax.Array:
        """Returns the normalised output tokens [B, 1 + N, D] float32, the class token first."""
        return self._apply(params, images)

    def last_layers(self, params: Params, images: jax.Array, n: int) -> jax.Array:
        """Returns the normalised tokens of the last n blocks, [n, B, 1 + N, D] float32."""
        return self._apply(params, images, n, method="last_layers")

    def last_attention(self, params: Params, images: jax.Array) -> jax.Array:
        """Returns the attention weights of the last block, [B, heads, 1 + N, 1 + N] float32."""
        return self._apply(params, images, method="last_attention")

    def logits(self, params: Params, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the class and the patch logits of tokens [..., D], each [..., K] float32."""
        with jax.default_matmul_precision(self._precision):
            return self.head.apply({"params": params["head"]}, tokens)

    def _apply(self, params, images, *args, method=None):
        data = self.config.data
        images = forward.normalize(
            jnp.asarray(images), data.mean, data.std, models.compute_dtype(self.config)
        )
        variables = {"params": params["backbone"]}
        with jax.default_matmul_precision(self._precision):
            outputs = self.backbone.apply(variables, images, *args, method=method)
        return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))

    @property
    def _precision(self) -> str:
        # Accelerators multiply float32 in bfloat16 or TF32 unless told otherwise.
        return "default" if self.config.dtype == "bfloat16" else "highest"


def load(
    path: str,
    *,
    weights: str = "teacher",
    step: str = "latest",
    head: bool = False,
    dtype: str = "float32",
) -> tuple[Model, Params]:
    """Loads a model.

    Args:
      path: a run's workdir; one folder of its checkpoints; or what `ibot_jax.export` or
        `ibot_jax.convert` wrote: an Orbax folder, a .npz or a .safetensors file. Local, or one
        that etils.epath reads (gs://...).
      weights: "teacher" or "student", of a run; an export has only one of them.
      step: "latest", "best" by k-NN, or a step in digits, of a run's workdir.
      head: whether the projection head is needed, too.
      dtype: of the computation, "float32" or "bfloat16".

    Returns:
      The model, and its parameters {"backbone": ..., and by option "head": ...}, NumPy arrays.

    Raises:
      UserError: if there is no model at `path`, or it lacks what is asked for.
    """
    source = absolute_path(path)
    parts = ("backbone", "head") if head else ("backbone",)
    if not source.exists():
        raise UserError(f"{path} does not exist; give a run's workdir, a checkpoint or an export")
    exported = not is_checkpoint(source) and any(
        (source / name).is_dir() for name in (PARAMS, weights)
    )
    if source.is_dir() and not exported:
        config, params, facts = _load_run(source, path, weights, step, parts)
    else:
        description, tensors = _read_export(source, path, weights)
        config = described_config(description, path)
        facts = {
            key: value
            for key, value in description.items()
            if key not in ("model", "head", "dtype", "patch_grid", "resize", *DESCRIBED_DATA)
        }
        missing = [part for part in parts if part not in tensors]
        if missing:
            raise UserError(f"{path} holds no {missing[0]}; export it anew with --head")
        params = {part: tensors[part] for part in parts}
    config.dtype = dtype
    model = Model(config, path, facts)
    _check_shapes(model, params)
    return model, params


def untrained(model: Model, *, head: bool = False) -> tuple[Model, Params]:
    """Returns a model as it was before any training, to compare with.

    Args:
      model: of a run, whose seed then gives the very weights that the run started from; or of an
        export, which has no seed of its own: 0 is taken.
      head: whether the projection head is needed, too.

    Returns:
      The model with other facts, and its parameters.
    """
    start = dataclasses.replace(model, facts={"weights": "random", "step": 0})
    return start, jax.jit(functools.partial(_init, start, head=head))()


def _init(model: Model, *, head: bool) -> Params:
    """Draws parameters as `step.make_init` does."""
    config = model.config
    rngs = jax.random.split(jax.random.key(config.seed))
    image = jnp.zeros((1, *config.data.global_size, config.data.channels))
    params = {"backbone": model.backbone.init(rngs[0], image)["params"]}
    if head:
        params["head"] = model.head.init(rngs[1], jnp.zeros((1, config.model.width)))["params"]
    return params


def _check_shapes(model: Model, params: Params) -> None:
    """Makes sure that the parameters are those of the architecture which the config describes."""
    made = jax.eval_shape(functools.partial(_init, model, head="head" in params))
    wanted, found = (
        {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}
        for tree in (made, params)
    )
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"{model.name} holds weights of another architecture than its config: {name} is "
                f"{found.get(name, 'absent')}, not {wanted.get(name, 'absent')}; restore the one "
                "or the other"
            )


def described_config(description: dict[str, Any], path: str) -> ConfigDict:
    """Returns the default config with a model's description filled in.

    Args:
      description: as `export.describe` makes it.
      path: of the export, for errors.

    Raises:
      UserError: if the description lacks something, or says what no config can hold.
    """
    flat = {f"model.{key}": value for key, value in description.get("model", {}).items()}
    flat |= {f"head.{key}": value for key, value in description.get("head", {}).items()}
    missing = {"model", *DESCRIBED_DATA} - description.keys()
    if missing:
        raise UserError(f"{path} does not say its {min(missing)}; export or convert it anew")
    flat |= {f"data.{key}": description[key] for key in DESCRIBED_DATA}
    # The shorter side before a central crop; 256 before 224 where it is not said.
    flat["knn.resize"] = description.get("resize", round(min(description["global_size"]) * 8 / 7))
    return recorded_config(flat, path)


def recorded_config(flat: dict[str, Any], path: str) -> ConfigDict:
    """Returns a config from its JSON, {"model.width": 384, ...}; what is absent is the default.

    Raises:
      UserError: if it has keys that no config has; `path` names the file in the message.
    """
    config = get_config()
    if unknown := flat.keys() - flatten(config).keys():
        raise UserError(
            f"{path} is of another version of ibot_jax: it has {min(unknown)}, which no config has"
        )
    config.update_from_flattened_dict(
        {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items()}
    )
    return config


def is_checkpoint(path: epath.Path) -> bool:
    """Returns whether a path is that of a run's checkpoint, WORKDIR/checkpoints/STEP."""
    return path.name.isdecimal() and path.parent.name == "checkpoints"


def _load_run(
    source: epath.Path, path: str, weights: str, step: str, parts: tuple[str, ...]
) -> tuple[ConfigDict, Params, dict[str, Any]]:
    """Loads from a workdir or from one of its checkpoints, WORKDIR/checkpoints/STEP."""
    workdir = source
    if is_checkpoint(source):
        workdir, step = source.parent.parent, source.name
    recorded = read_config(workdir)
    if recorded is None:
        raise UserError(f"{path} holds no model: it is no run's workdir, checkpoint or export")
    number, top1 = find_checkpoint(workdir, step)
    params = read_params(workdir, number, weights, parts)
    facts = {"weights": weights, "step": number, "knn_top1": top1}
    return recorded_config(recorded, str(workdir / CONFIG)), params, facts


def _read_export(source: epath.Path, path: str, weights: str) -> tuple[dict[str, Any], Params]:
    """Reads an export of any kind: its description, and its parameters as NumPy arrays."""
    try:
        if source.is_dir():
            folder = next(source / name for name in (PARAMS, weights) if (source / name).is_dir())
            with ocp.PyTreeCheckpointer() as checkpointer:
                tree = checkpointer.metadata(folder).item_metadata.tree
                as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                args = ocp.args.PyTreeRestore(restore_args=as_numpy)
                params = checkpointer.restore(folder, args=args)
            return json.loads((source / CONFIG).read_text()), params
        if source.suffix == ".npz":
            with np.load(source.open("rb"), allow_pickle=False) as file:
                flat = {name: file[name] for name in file.files}
            config = json.loads(str(flat.pop("config")))
            return config, flax.traverse_util.unflatten_dict(flat, sep="/")
        if source.suffix == ".safetensors":
            return _read_safetensors(source)
    except UserError:
        raise
    except Exception as error:  # Orbax, NumPy and safetensors raise many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no export of ibot_jax, or is damaged ({reason})") from error
    raise UserError(
        f"{path} is no .npz, .safetensors or Orbax export; weights of other projects are "
        "converted first: python -m ibot_jax.convert"
    )


def import_safetensors() -> types.ModuleType:
    """Returns the package `safetensors`, with its part for NumPy.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise UserError(
            "safetensors files need a package that is not here: pip install ibot-jax[export]"
        ) from None
    return safetensors


def is_own_safetensors(path: epath.Path) -> bool:
    """Returns whether a file is a safetensors file that this project wrote for itself."""
    return path.suffix == ".safetensors" and "config" in _safetensors_metadata(path)


def _safetensors_metadata(path: epath.Path) -> dict[str, str]:
    """Returns the texts at the beginning of a safetensors file; none if it is something else."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            return json.loads(file.read(min(length, 2**27))).get("__metadata__", {})
        except (ValueError, AttributeError):
            return {}


def _read_safetensors(source: epath.Path) -> tuple[dict[str, Any], Params]:
    safetensors = import_safetensors()
    metadata = _safetensors_metadata(source)
    if "config" not in metadata:
        raise UserError(
            f"{source} has no config in it: it is no export of ibot_jax; convert it first: "
            "python -m ibot_jax.convert"
        )
    flat = safetensors.numpy.load(source.read_bytes())
    return json.loads(metadata["config"]), flax.traverse_util.unflatten_dict(flat, sep=".")
