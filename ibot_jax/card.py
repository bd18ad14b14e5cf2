"""Model cards: what a set of weights is, in Markdown, as model hubs show it."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.tensors import weights_hash

# What of a run's config tells how the weights came about.
_SCHEDULE = (
    "data.source",
    "data.split",
    "duration",
    "batch_size",
    "init_from",
    "seed",
    "optim.name",
    "optim.lr",
    "optim.min_lr",
    "optim.warmup",
    "optim.weight_decay",
    "optim.weight_decay_end",
    "optim.clip",
    "optim.freeze_last_layer",
    "teacher_momentum",
    "loss.teacher_temp",
    "loss.teacher_patch_temp",
    "loss.teacher_temp_warmup",
    "masks.kind",
    "masks.ratios",
    "data.global_views",
    "data.local_views",
    "head.prototypes",
)
_IMPORTS = "import hashlib\n\nimport numpy as np\n"
_HASH = """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}\\n".encode())
        digest.update(array.tobytes())
    print(digest.hexdigest())
"""


def read_report(path: epath.Path) -> dict[str, Any]:
    """Reads what `ibot_jax.evaluate` wrote, TASK.json.

    Raises:
      UserError: if the file is no such report.
    """
    try:
        report = json.loads(path.read_text())
        return {key: report[key] for key in ("task", "settings", "metrics")} | {
            "command": report.get("command", "")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"--report={path} is no report; give a TASK.json that python -m ibot_jax.evaluate wrote"
        ) from None


def make_card(
    description: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    title: str,
    reading: str,
    usage: str,
    library: str = "ibot_jax",
    license_id: str = "",
    reports: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Writes a model card.

    Args:
      description: of the model, see `export.describe`, and what else is known: `weights`, `step`,
        `knn_top1`, `run` (its config), `args` (of the original's run), `converted_from`.
      tensors: as the files hold them, to be hashed.
      title: name of the files.
      reading: Python that makes `tensors`, a dict of NumPy arrays by name, out of the files.
      usage: Python that computes features.
      library: that reads the files, in the words of model hubs.
      license_id: SPDX identifier of the weights' licence; "" if it is not stated.
      reports: of evaluations, see `read_report`.

    Returns:
      Markdown with the YAML header that model hubs read.
    """
    header = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        *([f"license: {license_id.lower()}"] if license_id else []),
        "tags: [ibot, vision-transformer, self-supervised-learning]",
        "---",
    ]
    sections = {
        "Architecture": _architecture(description),
        "Input": _input(description),
        "Training": _training(description),
        "Metrics": _metrics(description, reports),
        "Licence": license_id
        or "Not stated by whoever wrote these files. The code that wrote them, ibot_jax, is "
        "Apache-2.0, which says nothing of the weights.",
        "Features": _code(usage),
        "Weights": f"{len(tensors)} tensors, {sum(x.size for x in tensors.values()):,} numbers; "
        f"SHA-256 of all of them\n\n    {weights_hash(tensors)}\n\nand how to find it again:\n\n"
        + _code(_IMPORTS + textwrap.dedent(reading) + textwrap.dedent(_HASH)),
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    return "\n".join(header) + f"\n\n# {title}\n\n{_summary(description)}\n\n{body}\n"


def _code(source: str) -> str:
    """Returns Python as a block of Markdown."""
    return textwrap.indent(textwrap.dedent(source).strip("\n"), "    ")


def _summary(description: Mapping[str, Any]) -> str:
    origin = description.get("converted_from")
    if origin:
        parts = [
            f"Weights of a Vision Transformer, converted from {origin['file']} ({origin['kind']})"
        ]
    else:
        parts = [f"The {description.get('weights', 'teacher')} of an iBOT pre-training"]
    if description.get("step") is not None:
        parts.append(f"after {description['step']:,} steps")
    if description.get("epoch") is not None:
        parts.append(f"after {description['epoch']} epochs")
    version = description.get("ibot_jax")
    return ", ".join(parts) + "." + (f" Written by ibot_jax {version}." if version else "")


def _table(rows: Mapping[str, Any]) -> str:
    cells = {key: str(value).replace("|", "\\|") for key, value in rows.items()}
    return "\n".join(["| | |", "| --- | --- |"] + [f"| {k} | {v} |" for k, v in cells.items()])


def _architecture(description: Mapping[str, Any]) -> str:
    model = description["model"]
    rows = {
        "architecture": "Vision Transformer with a class token, pre-norm, exact GELU",
        "width": model["width"],
        "blocks": model["depth"],
        "attention heads": model["heads"],
        "MLP ratio": model["mlp_ratio"],
        "patch": f"{model['patch_size']} pixels",
        "LayerScale": "yes" if model["layer_scale"] else "no",
        "LayerNorm epsilon": 1e-6,
    }
    if "head" in description:
        head = description["head"]
        rows["projection head"] = (
            f"{head['hidden_dim']}, {head['hidden_dim']}, {head['bottleneck_dim']}, then "
            f"{head['prototypes']} prototypes"
        )
    return _table(rows)


def _input(description: Mapping[str, Any]) -> str:
    height, width = description["global_size"]
    return _table(
        {
            "size": f"{height} x {width} pixels, {description['channels']} channels",
            "resized to": f"{shorter_side(description)} pixels (shorter side, bicubic), then a "
            "central crop",
            "mean": ", ".join(map(str, description["mean"])),
            "standard deviation": ", ".join(map(str, description["std"])),
        }
    )


def shorter_side(description: Mapping[str, Any]) -> int:
    """Returns to how many pixels the shorter side of an image is resized before a central crop."""
    return description.get("resize", round(min(description["global_size"]) * 8 / 7))


def _training(description: Mapping[str, Any]) -> str:
    if "run" in description:
        run = description["run"]
        return _table({f"`{key}`": run[key] for key in _SCHEDULE if run.get(key, "") != ""})
    if "args" in description:
        return _table({f"`{key}`": value for key, value in description["args"].items()})
    return "Data and schedule are not recorded in what these weights were converted from."


def _metrics(description: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    if description.get("knn_top1") is not None:
        run = description.get("run", {})
        lines.append(
            f"- k-NN top-1 {description['knn_top1']:.2f} %, found during training"
            + (f" with k = {run['knn.k']}" if "knn.k" in run else "")
            + "; again by `python -m ibot_jax.evaluate knn --from=PATH"
            + f" --data={run.get('data.source', 'SOURCE')}"
            + f" --train-split={run.get('knn.train_split', 'train')}"
            + f" --test-split={run.get('knn.test_split', 'test')}`"
        )
    for report in reports:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in report["metrics"].items())
        settings = " ".join(f"{name}={value}" for name, value in report["settings"].items())
        command = report["command"] or f"python -m ibot_jax.evaluate {report['task']}"
        lines.append(f"- {report['task']}: {figures}, by `{command}` ({settings})")
    return "\n".join(lines) or "None are recorded."
