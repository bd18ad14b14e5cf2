"""Trained models, from wherever they lie: a run, one of its checkpoints, or an export.

model, params = ibot_jax.load("runs/mine")
tokens = model.tokens(params, images)  # uint8 [B, H, W, 3] to float32 [B, 1 + N, D]
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ibot_jax import models
from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.errors import UserError, require_one_of
from ibot_jax.files.paths import absolute_path
from ibot_jax.methods import forward
from ibot_jax.models.head import Head
from ibot_jax.models.vit import ViT
from ibot_jax.optim.optimizer import Params
from ibot_jax.weights.exported import CONFIG, is_exported_folder, read_exported
from ibot_jax.weights.finetuned import build_classifier, is_finetuned, parts_of, read_finetuned
from ibot_jax.weights.history import config_of_step, read_config
from ibot_jax.weights.recorded import (
    DECODED,
    DESCRIBED_DATA,
    described_config,
    described_view,
    recorded_config,
)
from ibot_jax.weights.restoring import require_shapes
from ibot_jax.weights.run_metrics import knn_facts
from ibot_jax.weights.sanity import check_finite, check_images
from ibot_jax.weights.saved import find_checkpoint, find_workdir, read_params

# What it says of how the weights came about: the config of the run, or what the original's says,
# and the file that they were converted from.
_HISTORY = ("run", "finetuned", "args", "epoch", "converted_from")
_MODEL = ("model", "head", "dtype", "patch_grid", "view", "resize", *DESCRIBED_DATA, *DECODED)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A Vision Transformer and how it sees images; parameters are passed to each call.

    Images are [B, H, W, C] and whole patches in height and width; positions are resampled for sizes
    other than that of the training. uint8 are pixels from 0 to 255. Floating ones have to say what
    they are: `floats="unit"` are pixels from 0 to 1, `floats="normalized"` those less the mean of
    each channel, over its standard deviation (`config.data.mean`, `config.data.std`). Other dtypes,
    shapes and sizes are a UserError. All methods are pure and may be jitted.

    Attributes:
      config: of a run, of which the sections `model`, `head` and `data` describe the model.
      name: where it is from, for people.
      facts: what else is known of it: `weights` ("teacher" or "student"), `step`, `knn_top1`.
      history: how the weights came about, for model cards: `run`, the config of the run, ...
      described_view: how evaluations see images, where that does not follow from the config.
      classifier: of a fine-tuned model, {"classes": C, "names": by class or None, ...}; else None.
    """

    config: ConfigDict
    name: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: dict[str, Any] = dataclasses.field(default_factory=dict)
    described_view: CentralView | None = None
    classifier: dict[str, Any] | None = None

    @property
    def view(self) -> CentralView:
        """How evaluations see images, unless told otherwise."""
        config = self.config
        return self.described_view or view_of_run(config.data.global_size, config.knn.resize)

    def __repr__(self) -> str:
        """Returns one line; the whole config is `config`."""
        model, size = self.config.model, "x".join(map(str, self.config.data.global_size))
        facts = (f"{key}={self.facts[key]}" for key in ("weights", "step") if key in self.facts)
        return (
            f"Model({', '.join([self.name, *facts])}: ViT of width {model.width}, depth "
            f"{model.depth}, {model.heads} heads, patch {model.patch_size}, for {size} images)"
        )

    @property
    def trained_on(self) -> str:
        """The `data.source` of the run that the weights are from; "" if that is not known."""
        return self.history.get("run", {}).get("data.source", "")

    @functools.cached_property
    def backbone(self) -> ViT:
        """The Linen module of the backbone, for `params["backbone"]`."""
        return models.build_backbone(self.config)

    @functools.cached_property
    def head(self) -> Head:
        """The Linen module of the projection head, for `params["head"]`, where that is there."""
        if self.classifier is not None:
            raise UserError(
                f"{self.name} is fine-tuned: it has a classifier and no projection head; give the "
                "pre-training"
            )
        return models.build_head(self.config, teacher=self.facts.get("weights") != "student")

    def tokens(self, params: Params, images: jax.Array, *, floats: str | None = None) -> jax.Array:
        """Returns the normalised output tokens [B, 1 + N, D] float32, the class token first.

        Args:
          params: {"backbone": ...}.
          images: [B, H, W, C]: uint8, pixels from 0 to 255; or floating, see `floats`.
          floats: "unit" or "normalized", what floating images are; see the class.

        Raises:
          UserError: for images of another dtype, shape or size.
        """
        return self._apply(params, images, floats=floats)

    def last_layers(
        self, params: Params, images: jax.Array, n: int, *, floats: str | None = None
    ) -> jax.Array:
        """Returns the normalised tokens of the last n blocks, [n, B, 1 + N, D] float32.

        Images and errors as of `tokens`.
        """
        return self._apply(params, images, n, floats=floats, method="last_layers")

    def last_attention(
        self, params: Params, images: jax.Array, *, floats: str | None = None
    ) -> jax.Array:
        """Returns the attention weights of the last block, [B, heads, 1 + N, 1 + N] float32.

        Images and errors as of `tokens`.
        """
        return self._apply(params, images, floats=floats, method="last_attention")

    def whole_patches(self, images: jax.Array) -> jax.Array:
        """Returns images [B, H, W, C] without last rows and columns that do not fill a patch."""
        side = self.config.model.patch_size
        return images[:, : images.shape[1] // side * side, : images.shape[2] // side * side]

    def class_logits(
        self, params: Params, images: jax.Array, *, floats: str | None = None
    ) -> jax.Array:
        """Returns what the classifier of a fine-tuned model says, [B, C] float32.

        Images and errors as of `tokens`; `params` as `load` gives them with `head=True`.
        """
        if self.classifier is None or "classifier" not in params:
            raise UserError(f"{self.name} has no classifier; load a fine-tuned model with its head")
        module = build_classifier(self.config, self.classifier)
        return self._apply(params, images, floats=floats, module=module)

    def logits(self, params: Params, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the class and the patch logits of tokens [..., D], each [..., K] float32."""
        with jax.default_matmul_precision(self._precision):
            return self.head.apply({"params": params["head"]}, tokens)

    def _apply(self, params, images, *args, floats, method=None, module=None):
        data = self.config.data
        if not isinstance(images, np.ndarray | jax.Array):
            images = np.asarray(images)
        check_images(images, floats, data.channels, self.config.model.patch_size)
        images = jnp.asarray(images)
        if floats == "unit" and images.dtype != jnp.uint8:
            images = forward.standardize(images, data.mean, data.std)
        images = forward.normalize(images, data.mean, data.std, models.compute_dtype(self.config))
        module, params = (module, params) if module else (self.backbone, params["backbone"])
        with jax.default_matmul_precision(self._precision):
            outputs = module.apply({"params": params}, images, *args, method=method)
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
      path: a run's workdir, or that of a fine-tuning; one folder of its checkpoints; or what
        `ibot_jax.export` or
        `ibot_jax.convert` wrote: a folder (orbax, checkpoint), a .npz or a .safetensors file.
        Local, or one that etils.epath reads (gs://...).
      weights: "teacher" or "student", of a run or a converted checkpoint; other exports have only
        one of them.
      step: "latest", "best" by k-NN, or a step in digits, of a run's workdir.
      head: whether the projection head, or of a fine-tuned model the classifier, is needed, too.
      dtype: of the computation, "float32" or "bfloat16".

    Returns:
      The model, and its parameters {"backbone": ..., and by option "head": ...}, NumPy arrays; of
      a fine-tuned model "classifier" in place of the head, and "projection" if it has one.

    Raises:
      UserError: if there is no model at `path`, it lacks what is asked for, or its weights are not
        finite.
    """
    require_one_of("--weights", weights, ("teacher", "student"))
    require_one_of("--dtype", dtype, ("float32", "bfloat16"))
    source = absolute_path(path)
    if not source.exists():
        raise UserError(f"{path} does not exist; give a run's workdir, a checkpoint or an export")
    if source.is_dir() and not is_exported_folder(source):
        model, params = _load_run(source, path, weights, step, head)
    else:
        model, params = _load_export(source, path, weights, head)
    model.config.dtype = dtype
    _check_shapes(model, params)
    check_finite(params, path)
    return model, params


def _load_export(source: epath.Path, path: str, weights: str, head: bool) -> tuple[Model, Params]:
    description, tensors = read_exported(source, path, weights)
    config, view = described_config(description, path), described_view(description, path)
    history = {key: description[key] for key in _HISTORY if key in description}
    facts = {k: v for k, v in description.items() if k not in (*_MODEL, *_HISTORY)}
    classifier = facts.pop("classifier", None)
    if weights == "student" and facts.get("weights") == "teacher":
        raise UserError(f"{path} holds no student, only the teacher")
    parts = ("backbone", *(parts_of(classifier) if head else ()))
    missing = [part for part in parts if part not in tensors]
    if missing:
        raise UserError(f"{path} holds no {missing[0]}; export it anew with --head")
    model = Model(config, path, facts, history, view, classifier)
    return model, {part: tensors[part] for part in parts}


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
    if head and model.classifier is not None:
        return build_classifier(config, model.classifier).init(rngs[0], image)["params"]
    params = {"backbone": model.backbone.init(rngs[0], image)["params"]}
    if head:
        params["head"] = model.head.init(rngs[1], jnp.zeros((1, config.model.width)))["params"]
    return params


def _check_shapes(model: Model, params: Params) -> None:
    """Makes sure that the parameters are those of the architecture which the config describes."""
    try:
        made = jax.eval_shape(functools.partial(_init, model, head=len(params) > 1))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{model.name} describes no model that can be built ({reason})") from error
    require_shapes(params, made, model.name)


def _load_run(
    source: epath.Path, path: str, weights: str, step: str, head: bool
) -> tuple[Model, Params]:
    """Loads from a workdir or from one of its checkpoints, WORKDIR/checkpoints/STEP."""
    workdir, step = find_workdir(source, step)
    recorded = read_config(workdir)
    if recorded is None:
        raise UserError(f"{path} holds no model: it is no run's workdir, checkpoint or export")
    if is_finetuned(recorded):
        if weights == "student":
            raise UserError(f"{path} is fine-tuned: it has no student, but one set of weights")
        described, params = read_finetuned(workdir, step, head, load)
        return Model(name=path, **described), params
    number, top1 = find_checkpoint(workdir, step, [weights])
    recorded = config_of_step(workdir, number)
    params = read_params(workdir, number, weights, ("backbone", *(("head",) if head else ())))
    facts = {"weights": weights, "step": number, **knn_facts(workdir, number, top1, weights)}
    config = recorded_config(recorded, str(workdir / CONFIG))
    return Model(config, path, facts, {"run": recorded}), params
