"""Model cards: what a set of weights is, in Markdown, as model hubs show it."""

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.models import counts
from ibot_jax.models.architectures import architecture_of, geometry_of
from ibot_jax.models.parameters import Params
from ibot_jax.weights.description import described_config, described_model, described_view
from ibot_jax.weights.hashes import backbone_hash, weights_hash
from ibot_jax.weights.quoting import hub_id, yaml_scalar

# What of a run's config tells how the weights came about.
_SCHEDULE = (
    "data.source",
    "data.mixture",
    "data.split",
    "dtype",
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
    "teacher_momentum_end",
    "loss.teacher_temp",
    "loss.teacher_patch_temp",
    "loss.teacher_temp_warmup",
    "masks.kind",
    "masks.ratios",
    "data.global_views",
    "data.local_views",
    "head.prototypes",
)
_LATE = "high_res.last"  # without it the keys of its section say nothing
_IMPORTS = "import hashlib\n\nimport numpy as np\n"
_GELU = {
    "bfloat16": "by a tanh, within 2.6e-5 of the exact one, where computed in bfloat16, as in the "
    "training; exact (erf) in float32",
    "others": "exact (erf)",
}
_HASH = """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}\\n".encode())
        digest.update(array.tobytes())
    print(digest.hexdigest())
"""


def read_report(path: epath.Path, flag: str = "--report") -> dict[str, Any]:
    """Reads what `ibot_jax.evaluate` wrote, TASK.json, which a flag names.

    Returns:
      Its `task`, `settings`, `metrics` and `command`, "" where that is not recorded, and `path`.

    Raises:
      UserError: if the file is no such report.
    """
    try:
        report = json.loads(path.read_text())
        return {key: report[key] for key in ("task", "settings", "metrics")} | {
            "command": str(report.get("command", "")),
            "path": str(path),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{flag}={path} is no report; give a TASK.json that python -m ibot_jax.evaluate wrote"
        ) from None


def require_same_weights(reports: Sequence[Mapping[str, Any]], params: Params) -> None:
    """Raises a UserError if a report says that it is of other weights than these."""
    own = backbone_hash(params)
    for report in reports:
        if report["settings"].get("sha256", own) != own:
            raise UserError(
                f"--report={report['path']} is of other weights than these; evaluate them, or give "
                "that of this step"
            )


def make_card(
    description: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    title: str,
    reading: str,
    usage: str,
    source: str = "PATH",
    library: str = "ibot_jax",
    license_id: str = "",
    reports: Sequence[Mapping[str, Any]] = (),
    remarks: Sequence[str] = (),
) -> str:
    """Writes a model card.

    Args:
      description: of the model, see `description.describe`, and what else is known: `weights`,
        `step`, `knn_top1`, `run` (its config), `args` (of the original's run), `converted_from`.
      tensors: as the files hold them, to be hashed.
      title: name of the files.
      reading: Python that makes `tensors`, a dict of NumPy arrays by name, out of the files.
      usage: Python that computes features.
      source: what `ibot_jax.load` and --from read; "PATH" if it does not read these files.
      library: that reads the files, in the words of model hubs.
      license_id: SPDX identifier of the weights' licence, or other words; "" takes that of what
        they were converted from, if it says one.
      reports: of evaluations, see `read_report`.
      remarks: on what becomes of images elsewhere, each a sentence without its full stop.

    Returns:
      Markdown with the YAML header that model hubs read.
    """
    license_id = license_id or description.get("license", "")
    header = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        *([f"license: {yaml_scalar(hub_id(license_id))}"] if license_id else []),
        "tags: [ibot, vision-transformer, self-supervised-learning]",
        "---",
    ]
    sections = {
        "Architecture": _architecture(description),
        "Input": _input(description) + "".join(f"\n\nNote: {text}." for text in remarks),
        "Training": _training(description),
        **({"Start": _start(description["start"])} if "start" in description else {}),
        "Metrics": _metrics(description, reports, source),
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
            f"Weights of a {_name(description)}, converted from {origin['file']} ({origin['kind']})"
        ]
        if "revision" in origin:
            parts.append(f"revision {origin['revision']}")
    elif "finetuned" in description:
        parts = [f"A {_name(description)}, fine-tuned as a classifier of images"]
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


def _name(description: Mapping[str, Any]) -> str:
    return architecture_of(described_model(description)).name


def _architecture(description: Mapping[str, Any]) -> str:
    model = described_model(description)
    geometry = geometry_of(model)
    token = "a class token" if geometry.has_class_token else "the patches' mean for a class token"
    by_stage = " by stage" if len(geometry.depths) > 1 else ""
    rows = {
        "architecture": f"{_name(description)} with {token}, pre-norm",
        "GELU": _GELU["bfloat16" if _dtype(description) == "bfloat16" else "others"],
        "width": model.width,
        "MLP ratio": model.mlp_ratio,
        "patch": f"{model.patch_size} pixels",
        "LayerNorm epsilon": f"{model.norm_eps:g}",
        f"blocks{by_stage}": ", ".join(map(str, geometry.depths)),
        f"attention heads{by_stage}": ", ".join(map(str, geometry.heads)),
        **architecture_of(model).options(model),
    }
    if "head" in description:
        head = description["head"]
        of_class, of_patches = counts.head_sizes(described_config(dict(description), "it").head)
        rows["projection head"] = _layers(*of_class, head["prototypes"])
        if head.get("separate"):
            rows["head of patch tokens"] = _layers(*of_patches, head["patch_prototypes"])
    return _table(rows)


def _layers(hidden_dim: int, bottleneck_dim: int, prototypes: int) -> str:
    return f"{hidden_dim}, {hidden_dim}, {bottleneck_dim}, then {prototypes} prototypes"


def _dtype(description: Mapping[str, Any]) -> str:
    """Returns the dtype that the weights were trained in, as far as it is known."""
    return description.get("run", description).get("dtype", "float32")


def _input(description: Mapping[str, Any]) -> str:
    height, width = description["global_size"]
    return _table(
        {
            "size": f"{height} x {width} pixels, {description['channels']} channels",
            "resized and cut to": described_view(description, "the model"),
            "mean": ", ".join(map(str, description["mean"])),
            "standard deviation": ", ".join(map(str, description["std"])),
        }
    )


def _training(description: Mapping[str, Any]) -> str:
    if "finetuned" in description:
        return _table({f"`{key}`": value for key, value in description["finetuned"].items()})
    if "run" in description:
        run = description["run"]
        late = [key for key in run if key.startswith("high_res.")] if run.get(_LATE) else []
        shown = (*_SCHEDULE, *late)
        return _table({f"`{key}`": run[key] for key in shown if run.get(key, "") != ""})
    if "args" in description:
        return _table({f"`{key}`": value for key, value in description["args"].items()})
    return "Data and schedule are not recorded in what these weights were converted from."


def _start(start: Mapping[str, Any]) -> str:
    """Returns what the training started from: `history.read_start`, of a run's description."""
    rows = {"weights": f"{start['source']} ({start['kind']})"}
    if checksum := start.get("converted_from", {}).get("sha256"):
        rows["SHA-256 of the file"] = checksum
    rows["their licence"] = start.get("license") or "not stated in them"
    return _table(rows | start["parts"])


def _metrics(
    description: Mapping[str, Any], reports: Sequence[Mapping[str, Any]], source: str
) -> str:
    lines = []
    if description.get("test_top1") is not None:
        lines.append(f"- top-1 {description['test_top1']:.2f} % on the test images of the training")
    if description.get("knn_top1") is not None:
        step = description.get("step")
        lines.append(
            f"- k-NN top-1 {description['knn_top1']:.2f} %, found during training"
            + (f" at step {step:,}" if step is not None else "")
            + _beware(description.get("knn_shared_images"))
        )
        if "run" in description:
            lines[-1] += f"; again by `{shlex.join(_knn_command(description['run'], source))}`"
    for report in reports:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in report["metrics"].items())
        beware = _beware(report["metrics"].get("shared_images"))
        lines.append(f"- {report['task']}: {figures}, by `{_command_of(report, source)}`{beware}")
    if source == "PATH" and any("--from=PATH" in line for line in lines):
        lines.append(
            "\nPATH stands for these weights in a format of ibot_jax's own, which `python -m "
            "ibot_jax.convert` writes (--to=npz)."
        )
    return "\n".join(lines) or "None are recorded."


def _beware(shared_images: int | None) -> str:
    if not shared_images:
        return ""
    return f" (beware: {shared_images:,} of the test images are training images, too)"


def _knn_command(run: Mapping[str, Any], source: str) -> list[str]:
    """Returns the words of a command line that finds what k-NN found during a run.

    Args:
      run: its config, {"knn.k": 20, ...}.
      source: as of `make_card`.
    """
    flags = {
        "--data": run.get("data.source"),
        "--data-dir": run.get("data.data_dir"),
        "--train-split": run.get("knn.train_split"),
        "--test-split": run.get("knn.test_split"),
        "--max-train-per-class": run.get("knn.max_train_per_class"),
        "--max-test-per-class": run.get("knn.max_test_per_class"),
        "--resize": run.get("knn.resize"),
        "--features": "cls",
        "--blocks": 1,
        "--k": run.get("knn.k"),
        "--temperature": run.get("knn.temperature"),
        "--dtype": "bfloat16" if run.get("dtype") == "bfloat16" else "float32",
    }
    size = [str(side) for side in run.get("data.global_size", ())]
    return [
        *("python", "-m", "ibot_jax.evaluate", "knn", f"--from={source}"),
        *(f"{flag}={value}" for flag, value in flags.items() if value),
        *(["--size", *size] if size else []),
    ]


def _command_of(report: Mapping[str, Any], source: str) -> str:
    """Returns the command line of a report, of the weights that the card is of."""
    if not report["command"]:  # of an earlier version
        settings = " ".join(f"{name}={value}" for name, value in report["settings"].items())
        return f"python -m ibot_jax.evaluate {report['task']}`, with `{settings}"
    words = [word for word in shlex.split(report["command"]) if not word.startswith("--step=")]
    if "sha256" in report["settings"]:
        words = [f"--from={source}" if word.startswith("--from=") else word for word in words]
    return shlex.join(words)
