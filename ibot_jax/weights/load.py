"""Loads trained models, from wherever they lie: a run, one of its checkpoints, or an export."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ibot_jax.errors import UserError, require_one_of
from ibot_jax.models.build import init_params
from ibot_jax.models.parameters import Params
from ibot_jax.screen.progress import busy
from ibot_jax.weights.checkpoints import read_weights
from ibot_jax.weights.description import (
    DECODED,
    DESCRIBED_DATA,
    described_config,
    described_view,
    portable,
    recorded_config,
)
from ibot_jax.weights.find import Source, find
from ibot_jax.weights.finetuned import build_classifier, parts_of, read_finetuned
from ibot_jax.weights.formats import CONFIG, read_exported
from ibot_jax.weights.history import config_of_step, read_start
from ibot_jax.weights.model import Model
from ibot_jax.weights.read import require_shapes
from ibot_jax.weights.run_metrics import knn_facts
from ibot_jax.weights.sanity import check_finite

# What it says of how the weights came about: the config of the run, or what the original's says,
# and the file that they were converted from.
_HISTORY = ("run", "finetuned", "args", "epoch", "converted_from", "start")
_MODEL = ("model", "head", "dtype", "patch_grid", "view", "resize", *DESCRIBED_DATA, *DECODED)


def load(
    path: str,
    *,
    weights: str = "teacher",
    step: str = "latest",
    head: bool | None = False,
    dtype: str = "float32",
) -> tuple[Model, Params]:
    """Loads a model; arguments, result and errors are those of `ibot_jax.load`."""
    require_one_of("--weights", weights, ("teacher", "student"))
    require_one_of("--dtype", dtype, ("float32", "bfloat16"))
    source = find(path, step)
    read = _load_run if source.has_checkpoints else _load_export
    model, params = read(source, path, weights, head)
    model.config.dtype = dtype
    _check_shapes(model, params)
    check_finite(params, path)
    return model, params


def _load_export(
    source: Source, path: str, weights: str, head: bool | None
) -> tuple[Model, Params]:
    if source.kind == "foreign" and source.place.is_dir():
        raise UserError(f"{path} holds no model: it is no run's workdir, checkpoint or export")
    description, tensors = read_exported(source.place, path, weights)
    config, view = described_config(description, path), described_view(description, path)
    history = {key: description[key] for key in _HISTORY if key in description}
    facts = {k: v for k, v in description.items() if k not in (*_MODEL, *_HISTORY)}
    classifier = facts.pop("classifier", None)
    if weights == "student" and facts.get("weights") == "teacher":
        raise UserError(f"{path} holds no student, only the teacher")
    parts = ("backbone", *(parts_of(classifier) if head is not False else ()))
    if head is None and not all(part in tensors for part in parts):
        parts = ("backbone",)
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
    """Draws parameters as a run does, which has no classifier."""
    config, rng = model.config, jax.random.key(model.config.seed)
    size, channels = config.data.global_size, config.data.channels
    if head and model.classifier is not None:
        image = jnp.zeros((1, *size, channels))
        classifier = build_classifier(config, model.classifier)
        return classifier.init(jax.random.split(rng)[0], image)["params"]
    return init_params(model.backbone, model.head if head else None, rng, size, channels)


def _check_shapes(model: Model, params: Params) -> None:
    """Makes sure that the parameters are those of the architecture which the config describes."""
    try:
        made = jax.eval_shape(functools.partial(_init, model, head=len(params) > 1))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{model.name} describes no model that can be built ({reason})") from error
    require_shapes(params, made, model.name)


def _load_run(source: Source, path: str, weights: str, head: bool | None) -> tuple[Model, Params]:
    workdir, head = source.place, head is not False
    if source.config is None:
        raise UserError(f"{path} holds no model: it is no run's workdir, checkpoint or export")
    if source.kind == "fine-tuning":
        if weights == "student":
            raise UserError(f"{path} is fine-tuned: it has no student, but one set of weights")
        described, params = read_finetuned(source, head, load)
        return Model(name=path, **described), params
    number, top1 = source.checkpoint(weights)
    config_then = config_of_step(workdir, number)
    assert config_then is not None  # as that of now is not
    recorded = portable(config_then)
    with busy("reading weights"):
        params = read_weights(workdir, number, weights, ("backbone", *(("head",) if head else ())))
    facts = {"weights": weights, "step": number, **knn_facts(workdir, number, top1, weights)}
    config, history = recorded_config(recorded, str(workdir / CONFIG)), {"run": recorded}
    if (start := read_start(workdir)) is not None:
        history["start"] = start
    return Model(config, path, facts, history), params
