"""Exports of the trained backbone: what they hold, and what they say of it."""

from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
from etils import epath

import ibot_jax
from ibot_jax.cli.quiet import quiet_libraries
from ibot_jax.config.flat import flatten
from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.errors import UserError, about_arguments, require_one_of
from ibot_jax.files.paths import absolute_path, warn_if_among_images, writing
from ibot_jax.optim.optimizer import Params
from ibot_jax.weights.card import make_card, read_report, require_same_weights
from ibot_jax.weights.checkpoints import find_checkpoint, find_workdir, read_params
from ibot_jax.weights.description import DECODED, portable, recorded_config
from ibot_jax.weights.finetuned import is_finetuned
from ibot_jax.weights.formats import CONFIG, import_safetensors
from ibot_jax.weights.hashes import flat_tensors
from ibot_jax.weights.history import config_of_step, read_config
from ibot_jax.weights.load import load
from ibot_jax.weights.quoting import quoted
from ibot_jax.weights.run_metrics import knn_facts
from ibot_jax.weights.sanity import check_finite
from ibot_jax.weights.writers import (
    FOLDERS,
    OWN_FORMATS,
    check_target,
    target_of,
    written_words,
)


@about_arguments()
@quiet_libraries()
def export(
    workdir: str,
    out: str,
    *,
    to: str,
    step: str = "latest",
    weights: str = "teacher",
    head: bool = False,
    overwrite: bool = False,
    license_id: str = "",
    reports: Sequence[str] = (),
) -> str:
    """Exports parameters of a run, finished or not.

    Args:
      workdir: of the run, or of a fine-tuning; like `out`, a local path or one that etils.epath
        takes (gs://...).
      out: what to write, a folder for "orbax" and else a file; missing parents are made.
      to: "orbax", "npz" or "safetensors".
      step: in digits, "latest", or "best" by k-NN.
      weights: "teacher" or "student".
      head: whether the projection head, or of a fine-tuning the classifier, comes too.
      overwrite: replace an earlier export of the same kind.
      license_id: SPDX identifier of the weights' licence, for the model card.
      reports: paths of evaluations' TASK.json, for the model card.

    Returns:
      What was exported, in words.

    Raises:
      UserError: if there is nothing to export, or `out` exists or cannot be written.
    """
    require_one_of("--to", to, OWN_FORMATS)
    require_one_of("--weights", weights, ("teacher", "student"))
    source, target = absolute_path(workdir), target_of(out, to)
    if to == "safetensors":
        import_safetensors()  # its absence is told before anything is read
    check_target(target, folder_of=FOLDERS.get(to), overwrite=overwrite)
    evaluations = [read_report(absolute_path(path)) for path in reports]
    source, step = find_workdir(source, step)
    recorded = read_config(source)
    if recorded is None:
        what = "config.json in it" if source.is_dir() else "such folder"
        raise UserError(f"--workdir={workdir} holds no run: there is no {what}; give that of a run")
    warn_if_among_images(out, "--out", [recorded.get("data.source", "")])
    read = _read_finetuned if is_finetuned(recorded) else _read_run
    description, params = read(source, step, weights, head)
    number = description["step"]
    check_finite(params, f"--workdir={workdir} --step={number}")
    require_same_weights(evaluations, params)
    card = own_card(target.name, to, params, description, license_id, evaluations)
    with writing("--out", out):
        OWN_FORMATS[to](target, params, description, card)

    tensors = jax.tree.leaves(params)
    top1, test_top1 = (description.get(key) for key in ("knn_top1", "test_top1"))
    accuracy = "" if top1 is None else f", k-NN {top1:.1f} %"
    accuracy += "" if test_top1 is None else f", top-1 {test_top1:.1f} %"
    whose = description.get("weights", "fine-tuned model")
    return (
        f"{whose}'s {' and '.join(params)}, step {number:,}{accuracy}: {len(tensors)} tensors, "
        f"{sum(x.size for x in tensors):,} parameters, {sum(x.nbytes for x in tensors):,} bytes\n"
        f"{written_words(target, out, to)}"
    )


def _read_run(
    workdir: epath.Path, step: str, weights: str, head: bool
) -> tuple[dict[str, Any], Params]:
    """Returns the description and the parameters of a pre-training's model."""
    number, top1 = find_checkpoint(workdir, step, [weights])
    recorded = portable(config_of_step(workdir, number))
    recorded_config(recorded, str(workdir / CONFIG))  # which looks at what it says
    description = describe(recorded, head=head)
    description |= {
        "weights": weights,
        "step": number,
        **knn_facts(workdir, number, top1, weights),
        "ibot_jax": ibot_jax.__version__,
        "run": recorded,
    }
    return description, read_params(
        workdir, number, weights, ("backbone", *(("head",) if head else ()))
    )


def _read_finetuned(
    workdir: epath.Path, step: str, weights: str, head: bool
) -> tuple[dict[str, Any], Params]:
    """Returns the description and the parameters of a fine-tuned model."""
    model, params = load(str(workdir), weights=weights, step=step, head=head)
    description = describe(flatten(model.config), head=False) | model.facts | model.history
    description |= {"classifier": model.classifier} if head else {}
    return description | {"ibot_jax": ibot_jax.__version__}, params


def own_card(
    name: str,
    to: str,
    params: Params,
    description: dict[str, Any],
    license_id: str,
    reports: Sequence[dict[str, Any]],
) -> str:
    """Returns the model card of an export that `load.load` reads; see `card.make_card`."""
    return make_card(
        description,
        flat_tensors(params),
        title=name,
        reading=_READING[to].format(name=quoted(name)),
        usage=f"""
            import ibot_jax

            model, params = ibot_jax.load({quoted(name)})
            tokens = model.tokens(params, images)  # uint8 [B, H, W, C] to [B, 1 + N, D]
            """,
        source=name,
        license_id=license_id,
        reports=reports,
    )


# How the tensors of each format become NumPy arrays by name, without this package.
_READING = {
    "orbax": """
        import pathlib

        import jax
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore((pathlib.Path({name}) / "params").absolute())
        tensors = {{
            jax.tree_util.keystr(path, simple=True, separator="."): array
            for path, array in jax.tree_util.tree_leaves_with_path(params)
        }}
        """,
    "npz": """
        tensors = {{name.replace("/", "."): array for name, array in np.load({name}).items()}}
        del tensors["config"]
        """,
    "safetensors": """
        import safetensors.numpy

        tensors = safetensors.numpy.load_file({name})
        """,
}


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
      (`central.CentralView`); `mean` and `std` of each channel, for pixels in [0, 1]; `range` and
      `exif`, how files become pixels; `dtype` of the computation.

    Raises:
      UserError: if the config lacks one of these.
    """
    config = flax.traverse_util.unflatten_dict(portable(recorded), sep=".")
    try:
        patch_size, global_size = config["model"]["patch_size"], config["data"]["global_size"]
        view = view or view_of_run(global_size, config["knn"]["resize"])
        return {
            **{section: config[section] for section in (("model", "head") if head else ("model",))},
            **{key: config["data"][key] for key in ("global_size", "channels", "mean", "std")},
            **{key: config["data"][key] for key in DECODED if key in config["data"]},
            "patch_grid": [side // patch_size for side in global_size],
            "view": view.to_json(),
            "dtype": config["dtype"],
        }
    except KeyError as error:
        raise UserError(f"the run's config.json lacks {error}; restore the file") from None
