"""What exports say of a model in JSON, and configs from what they and runs say."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
from ml_collections import ConfigDict

from ibot_jax.config import get_config
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import flatten, section
from ibot_jax.config.keys import Kind, of_kind
from ibot_jax.config.section import Section
from ibot_jax.data.draw.central import CentralView, view_of_old_export, view_of_run
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.weights.sanity import check_normalization

# What an export says of the data that its model was trained for; see `describe`.
DESCRIBED_DATA = ("global_size", "channels", "mean", "std")
# And of how files become pixels; what is absent is the default.
DECODED = ("range", "exif", "bands", "clip_percentiles", "window")
_NORMALIZATION = ("data.mean", "data.std")
_SEEN = (
    *("data.global_size", "data.channels", "knn.resize", "dtype"),
    *(f"data.{key}" for key in DECODED),
)


def describe(
    recorded: dict[str, Any], *, head: bool, view: CentralView | None = None
) -> dict[str, Any]:
    """Returns what a model needs besides its parameters.

    Args:
      recorded: a run's config, {"model.width": 384, ...}.
      head: whether to describe the head, too.
      view: how evaluations see images; None for what follows from the config.

    Returns:
      `model` and by option `head`, those sections of the config but for how they were executed;
      `global_size` [height, width] and `channels` of the images it was trained for; their
      `patch_grid` [rows, columns]; `view`, how images are resized and cut in evaluations
      (`central.CentralView`); `mean` and `std` of each channel, for pixels in [0, 1]; `range`,
      `exif` and others of `DECODED`, how files become pixels; `dtype` of the computation.

    Raises:
      UserError: if the config lacks one of these.
    """
    config = flax.traverse_util.unflatten_dict(portable(recorded), sep=".")
    try:
        complete = flatten(get_config()) | portable(recorded)
        global_size = config["data"]["global_size"]
        view = view or view_of_run(global_size, config["knn"]["resize"])
        return {
            **{name: config[name] for name in (("model", "head") if head else ("model",))},
            **{key: config["data"][key] for key in ("global_size", "channels", "mean", "std")},
            **{key: config["data"][key] for key in DECODED if key in config["data"]},
            "patch_grid": list(geometry_of(section(complete, "model")).grid(global_size)),
            "view": view.to_json(),
            "dtype": config["dtype"],
        }
    except KeyError as error:
        raise UserError(f"the run's config.json lacks {error}; restore the file") from None


def described_config(description: dict[str, Any], path: str) -> ConfigDict:
    """Returns the default config with a model's description filled in.

    Args:
      description: as `describe` makes it.
      path: of the export, for errors.

    Raises:
      UserError: if the description lacks something, or says what no config can hold.
    """
    missing = {"model", *DESCRIBED_DATA} - description.keys()
    if missing:
        raise UserError(f"{path} does not say its {min(missing)}; export or convert it anew")
    flat: dict[str, Any] = {}
    for name in ("model", "head"):
        values = description.get(name, {})
        if not isinstance(values, dict):
            raise UserError(f"{path} has {name}={values!r}; export or convert it anew")
        flat |= {f"{name}.{key}": value for key, value in values.items()}
    flat |= {f"data.{key}": description[key] for key in DESCRIBED_DATA}
    flat |= {f"data.{key}": description[key] for key in DECODED if key in description}
    if "resize" in description:
        flat["knn.resize"] = description["resize"]
    config = recorded_config(portable(flat), path)
    if "resize" not in description:  # the shorter side before a central crop, as 256 before 224
        config.knn.resize = round(min(config.data.global_size) * 8 / 7)
    return config


def described_model(description: Mapping[str, Any]) -> Section:
    """Returns the section `model` of the config that a description tells of."""
    return described_config(dict(description), "the model").model


def described_view(description: Mapping[str, Any], path: str) -> CentralView:
    """Returns how the model that is described sees images in evaluations.

    Args:
      description: as `describe` makes it; those of before have the shorter side at most.
      path: of the export, for errors.

    Raises:
      UserError: if it makes no sense.
    """
    if "view" not in description:
        return view_of_old_export(description["global_size"], description.get("resize"))
    try:
        return CentralView.from_json(description["view"])
    except ValueError as error:
        raise UserError(f"{path} has a view that is none: {error}; export it anew") from None


def portable(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config's JSON without how it was executed, which is another machine's business."""
    executed = of_kind(KEYS, Kind.EXECUTED)
    return {key: value for key, value in flat.items() if key not in executed}


def recorded_config(flat: dict[str, Any], path: str) -> ConfigDict:
    """Returns a config from its JSON, {"model.width": 384, ...}; what is absent is the default.

    Raises:
      UserError: if it has keys that no config has, or says what no model is or sees, of other
        pixels than those in [0, 1] for example; `path` names the file in the message.
    """
    config = get_config()
    if unknown := flat.keys() - flatten(config).keys():
        raise UserError(
            f"{path} is of another version of ibot_jax: it has {min(unknown)}, which no config has"
        )
    flat = {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items()}
    for key, value in flat.items():
        if key in _NORMALIZATION:
            check_normalization({key.removeprefix("data."): value}, f"{path}: ")
        elif key.startswith(("model.", "head.")) or key in _SEEN:
            problem = KEYS[key].problem(value)
            if problem:
                raise UserError(f"{path} has {key}={value!r}, which {problem}; restore it")
    try:
        config.update_from_flattened_dict(flat)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path} says what no config can hold ({error}); restore it") from error
    for key in _NORMALIZATION:
        if len(config.data[key.removeprefix("data.")]) != config.data.channels:
            raise UserError(
                f"{path} has {key} for other than the {config.data.channels} channels of its "
                "images; restore it"
            )
    return config
