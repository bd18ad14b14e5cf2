"""The folder of a fine-tuning: which model it holds, and for which classes.

    WORKDIR/model.json              {"config": that of the model, "classifier": {...}, "run": ...}
    WORKDIR/checkpoints/STEP/params {"backbone": ..., "classifier": ..., maybe "projection": ...}

"classifier" has the number of "classes", their "names" or null, and "projection", the width of the
projection head's layer below the classifier, 0 without. Earlier versions wrote no model.json; then
the model that was fine-tuned says its architecture, as long as it is there.
"""

from collections.abc import Callable
from typing import Any

from etils import epath

from ibot_jax.config.flat import Flat, as_json
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.json_files import parse_object
from ibot_jax.kernels.choice import choose_at_hand
from ibot_jax.models.build import build_backbone, compute_dtype, param_dtype
from ibot_jax.models.classifier import Classifier
from ibot_jax.models.parameters import Params
from ibot_jax.weights.checkpoints import read_weights
from ibot_jax.weights.description import portable, recorded_config
from ibot_jax.weights.find import Source
from ibot_jax.weights.formats import PARAMS
from ibot_jax.weights.history import config_of_step

_FILE = "model.json"
Described = dict[str, Any]


def parts_of(classifier: Described | None) -> tuple[str, ...]:
    """Returns the parameters that go with a backbone: of its classifier, or its projection head."""
    if classifier is None:
        return ("head",)
    return ("classifier", "projection") if classifier["projection"] else ("classifier",)


def build_classifier(
    config: Section, classifier: Described, *, init_std: float = 0.0
) -> Classifier:
    """Builds the Linen module for {"backbone": ..., "classifier": ..., ...}.

    Args:
      config: of the model, for images of the size that it classifies.
      classifier: see above.
      init_std: standard deviation of the classifier's initial weights.
    """
    return Classifier(
        backbone=build_backbone(
            config.model,
            config.data.global_size,
            config.dtype,
            choose_at_hand(config.model.kernels),
        ),
        num_classes=classifier["classes"],
        projection_dim=classifier["projection"],
        act=config.head.act,
        init_std=init_std,
        dtype=compute_dtype(config.dtype),
        param_dtype=param_dtype(config.dtype),
    )


def write_model(workdir: epath.Path, config: Flat, classifier: Described, run: Flat | None) -> None:
    """Records what a fine-tuning makes.

    Args:
      workdir: of the fine-tuning.
      config: of the model, for images of the size that it is fine-tuned on, as JSON has it.
      classifier: see above.
      run: the config of the pre-training, if it is known.
    """
    described = {"config": config, "classifier": classifier, "run": run}
    write_json(workdir / _FILE, described)


def read_finetuned(
    source: Source, head: bool, load: Callable[..., tuple[Any, Params]]
) -> tuple[dict[str, Any], Params]:
    """Reads a fine-tuned model.

    Args:
      source: of the kind "fine-tuning".
      head: whether its classifier is needed, too.
      load: `load.load`, for folders of earlier versions.

    Returns:
      What `model.Model` says of it, `config`, `facts`, `history` and `classifier`; and its
      parameters.

    Raises:
      UserError: if something is damaged or missing.
    """
    workdir = source.place
    number, top1 = source.checkpoint(PARAMS)
    recorded = config_of_step(workdir, number)
    assert recorded is not None  # a fine-tuning is told by its config
    described = _read_model(workdir, recorded, number, load)
    classifier, run = described["classifier"], described["run"]
    params = read_weights(
        workdir, number, PARAMS, ("backbone", *(parts_of(classifier) if head else ()))
    )
    return {
        "config": recorded_config(portable(described["config"]), str(workdir / _FILE)),
        "facts": {"step": number, "test_top1": top1},
        "history": {"finetuned": recorded} | ({"run": run} if run else {}),
        "classifier": classifier,
    }, params


def _read_model(
    workdir: epath.Path, recorded: Flat, step: int, load: Callable[..., tuple[Any, Params]]
) -> Described:
    """Returns what `write_model` has written, or would have."""
    path = workdir / _FILE
    if path.exists():
        try:
            return _checked(parse_object(path.read_bytes()))
        except (ValueError, KeyError, TypeError, OSError):
            raise UserError(f"{path} is damaged; restore it") from None
    try:
        model, _ = load(
            recorded["flags.source"], weights=recorded["flags.weights"], step=recorded["flags.step"]
        )
    except (UserError, KeyError) as error:
        raise UserError(
            f"{workdir} was fine-tuned by an earlier version, and the model that it was made from "
            f"is needed to read it: {error}"
        ) from None
    config = model.config.copy_and_resolve_references()
    config.data.global_size = tuple(recorded["flags.size"])
    classifier = read_weights(workdir, step, PARAMS, ["classifier"])["classifier"]
    width, classes = classifier["kernel"].shape
    projection = width if recorded["start"] == "projection" else 0
    return {
        "config": as_json(config),
        "classifier": {"classes": classes, "names": None, "projection": projection},
        "run": model.history.get("run"),
    }


def _checked(described: Described) -> Described:
    """Returns what a file says, or raises one of several errors."""
    classifier = described["classifier"]
    if not (
        isinstance(described["config"], dict)
        and isinstance(described["run"], dict | None)
        and type(classifier["classes"]) is type(classifier["projection"]) is int
        and isinstance(classifier["names"], list | None)
    ):
        raise ValueError
    return described
