"""What a run says of itself in metrics.jsonl, read again."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from ibot_jax.files.json_files import is_finite_number
from ibot_jax.files.json_lines import read_lines

METRICS = "metrics.jsonl"  # in the workdir


def read_rows(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, without those that are damaged, which a warning names.

    Raises:
      UserError: if the file cannot be read.
    """
    return read_lines(workdir / METRICS, _is_row)


def _is_row(row: Mapping[str, Any]) -> bool:
    """Returns whether a line says its step and epoch, and holds numbers, or null, alone."""
    step = row.get("step")
    return (
        type(step) is int
        and 0 <= step < 2**63
        and is_finite_number(row.get("epoch"))
        and all(value is None or is_finite_number(value) for value in row.values())
    )


def knn_facts(
    workdir: epath.Path, step: int, top1: float | None, weights: str
) -> dict[str, float | None]:
    """Returns what k-NN says of a checkpoint's weights: an accuracy is the teacher's alone.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      top1: the k-NN accuracy that was saved with it, in percent, or None.
      weights: "teacher" or "student".

    Returns:
      `knn_top1`, None if it is not known; and `knn_shared_images` where test images were among the
      neighbours, too.
    """
    if top1 is None or weights != "teacher":
        return {"knn_top1": None}
    rows = [row for row in read_rows(workdir) if row.get("step") == step]
    shared = max((row.get("knn_shared_images", 0) for row in rows), default=0)
    facts: dict[str, float | None] = {"knn_top1": top1}
    return facts | ({"knn_shared_images": shared} if shared else {})
