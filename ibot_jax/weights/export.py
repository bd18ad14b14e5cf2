"""Exports of the trained backbone: what they hold, and what they say of it."""

from collections.abc import Sequence
from typing import Any

import jax

from ibot_jax.cli.quiet import quiet_libraries
from ibot_jax.errors import UserError, about_arguments, require_one_of
from ibot_jax.files.paths import absolute_path, warn_if_among_images, writing
from ibot_jax.models.parameters import Params
from ibot_jax.screen.progress import busy
from ibot_jax.weights.card import make_card, read_report, require_same_weights
from ibot_jax.weights.find import find
from ibot_jax.weights.formats import import_safetensors
from ibot_jax.weights.hashes import flat_tensors
from ibot_jax.weights.load import load
from ibot_jax.weights.quoting import quoted
from ibot_jax.weights.write import (
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
    target = target_of(out, to)
    if to == "safetensors":
        import_safetensors()  # its absence is told before anything is read
    check_target(target, folder_of=FOLDERS.get(to), overwrite=overwrite)
    evaluations = [read_report(absolute_path(path)) for path in reports]
    source = find(workdir, step)
    if source.config is None:
        raise UserError(f"{workdir} holds no run: there is no config.json in it; give that of one")
    warn_if_among_images(out, "--out", [source.config.get("data.source", "")])
    model, params = load(workdir, weights=weights, step=step, head=head)
    description = model.description(head=head)
    number = description["step"]
    require_same_weights(evaluations, params)
    card = own_card(target.name, to, params, description, license_id, evaluations)
    with writing("--out", out), busy("writing weights"):
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
            tokens = model.features(params, images)  # of uint8 [B, H, W, C]
            tokens.cls, tokens.patches  # [B, D], [B, h, w, D]
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
