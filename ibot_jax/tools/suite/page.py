"""What a suite found: one JSON, a section in Markdown, and pictures."""

import html
import json
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ibot_jax.files.atomic import write_json

SECTION = "section.md"
_WIDTH, _ROW, _LABEL = 640, 26, 220  # of pictures, CSS pixels


def read(path: pathlib.Path) -> Any:
    """Returns the report in a file."""
    return json.loads(path.read_text())


def write(folder: pathlib.Path) -> None:
    """Writes `suite.json`, the section and its pictures, of the reports that there are."""
    reports = {
        path.stem: read(path) for path in sorted(folder.glob("*.json")) if path.stem != "suite"
    }
    write_json(folder / "suite.json", reports)
    blocks = [_title(reports)]
    if "check" in reports:
        blocks.append(_kernels(reports["check"]))
    if steps := list(_of(reports, "step")):
        blocks.append(_steps(steps))
        bars = [(" ".join(names), 100 * report["mfu"]) for names, report in steps]
        _save(folder / "utilisation.svg", "Model FLOPs utilisation, %", bars, most=100.0)
        blocks.append("![Utilisation of each step](utilisation.svg)")
    if versus := list(_of(reports, "versus")):
        blocks.append(_versus(versus))
        bars = [(" ".join(names), statistics.median(x["ratio"])) for names, x in versus]
        _save(folder / "versus.svg", "Times as fast as PyTorch", bars, line=1.0)
        blocks.append("![Times as fast as PyTorch](versus.svg)")
    if "input" in reports:
        blocks.append(_input(reports["input"]))
    if "training" in reports:
        blocks.append(_training(reports["training"]))
    (folder / SECTION).write_text("\n\n".join(blocks) + "\n")


def _of(reports: dict[str, Any], kind: str) -> Iterator[tuple[list[str], dict]]:
    """Yields what comes after `kind` in the name of each of its reports, and the report."""
    for name, report in reports.items():
        first, *rest = name.split("__")
        if first == kind:
            yield rest, report


def _title(reports: dict[str, Any]) -> str:
    steps = [report for _, report in _of(reports, "step")]
    if not steps:
        return "### A machine"
    kinds = sorted({f"{step['devices']} x {step['device']}" for step in steps})
    versions = sorted({step["jax"] for step in steps})
    return f"### {', '.join(kinds)}, jax {', '.join(versions)}"


def _kernels(rows: Sequence[dict]) -> str:
    compared = [row for row in rows if not row["verdict"].startswith("not ")]
    refused = [row for row in compared if row["verdict"] != "agrees"]
    lines = [f"Kernels (`bench check`): {len(compared) - len(refused)} of {len(compared)} agree."]
    lines += [
        f"- {row['kernel']} {row['shape']} {row['dtype']}: {row['verdict']}" for row in refused
    ]
    return "\n".join(lines)


def _steps(steps: Iterable[tuple[list[str], dict]]) -> str:
    def row(names: list[str], report: dict) -> list[str]:
        memory = report["memory_bytes"]
        return [
            names[0],
            ", ".join(report["kernels"]) or "xla",
            f"{report['batch_size']}",
            f"{1e3 * statistics.median(report['step_seconds']):.4g}",
            f"{report['images_per_second_per_device']:.4g}",
            f"{100 * report['mfu']:.1f} %",
            f"{memory['total'] / 2**30:.1f}",
        ]

    titles = ["step", "kernels", "batch", "ms", "images/s, a device", "MFU", "memory, GiB"]
    return _table(titles, (row(*step) for step in steps))


def _versus(reports: Iterable[tuple[list[str], dict]]) -> str:
    def row(names: list[str], report: dict) -> list[str]:
        batch, ratio = report["batch_size"], report["ratio"]
        return [
            names[0],
            f"{report['style']}, PyTorch {report['torch']}",
            f"{batch}",
            f"{batch / statistics.median(report['ours']):.4g}",
            f"{batch / statistics.median(report['theirs']):.4g}",
            f"{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})",
        ]

    titles = ["beside PyTorch", "style", "batch", "images/s here", "there", "ratio"]
    return _table(titles, (row(*report) for report in reports))


def _input(report: dict) -> str:
    return (
        f"Input (`bench input`): {report['images_per_second']:.4g} images/s, "
        f"{report['images_per_second_per_core']:.4g} a core, of {report['cores']} cores."
    )


def _training(report: dict) -> str:
    words = {
        "step": "steps",
        "epoch": "epochs",
        "loss": "loss",
        "images_per_second": "images/s",
        "knn_top1": "% k-NN",
        "probe_top1": "% linear probe",
    }
    found = [f"{report[name]:.4g} {word}" for name, word in words.items() if name in report]
    return f"Training, {report['seconds'] / 60:.1f} min: {', '.join(found)}."


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _save(
    path: pathlib.Path,
    title: str,
    bars: Sequence[tuple[str, float]],
    most: float | None = None,
    line: float | None = None,
) -> None:
    """Writes horizontal bars as SVG.

    Args:
      path: of the file.
      title: of the picture.
      bars: label and length of each.
      most: the length that fills the width; None takes the longest.
      line: the length at which a line is drawn.
    """
    most = most or max(length for _, length in bars)
    scale = (_WIDTH - _LABEL - 70) / most
    height = _ROW * (len(bars) + 1) + 10
    marks = [f'<text x="0" y="17" font-weight="bold">{html.escape(title)}</text>']
    for number, (label, length) in enumerate(bars, 1):
        top = number * _ROW
        marks += [
            f'<text x="0" y="{top + 17}">{html.escape(label)}</text>',
            f'<rect x="{_LABEL}" y="{top + 4}" width="{length * scale:.1f}" height="18" '
            'fill="#4c78a8"/>',
            f'<text x="{_LABEL + length * scale + 6:.1f}" y="{top + 17}">{length:.3g}</text>',
        ]
    if line is not None and line <= most:
        x = _LABEL + line * scale
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_ROW}" y2="{height - 6}" stroke="#888" '
            'stroke-dasharray="4 3"/>'
        )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13" role="img" '
        f'aria-label="{html.escape(title)}">\n' + "\n".join(marks) + "\n</svg>\n"
    )
