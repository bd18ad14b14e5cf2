"""How a step fares on pods of several sizes: the same step, compiled for each of them.

Weak scaling gives every chip as many images as it has on the first pod, strong scaling all pods as
many images in all. Nothing is extrapolated: a row is what the compiler says of that pod's program,
with what moves between chips at the rate of their links and nothing beside it (`ahead`). Links are
those within a pod; several pods, which a data centre's network joins, are beyond it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.json_lines import JsonLines, Row, read_lines

KINDS = ("weak", "strong")


def batch_sizes(kind: str, batch_size: int, chips: Sequence[int]) -> list[int]:
    """Returns the images a step of each pod.

    Args:
      kind: of `KINDS`.
      batch_size: of the first pod.
      chips: of each pod.

    Raises:
      UserError: if a chip of the first pod has no whole number of images, which others are to have.
    """
    if kind == "strong":
        return [batch_size] * len(chips)
    if batch_size % chips[0]:
        raise UserError(
            f"--batch-size={batch_size} is no multiple of the first pod's {chips[0]} chips; weak "
            "scaling takes it for that pod's"
        )
    return [batch_size // chips[0] * number for number in chips]


def compiled_rows(
    pods: Sequence[dict[str, Any]], compile_pod: Callable[[dict[str, Any]], dict], path: str | None
) -> Iterator[Row]:
    """Yields a row for each pod; those that a file has already are not compiled again.

    Args:
      pods: what tells one row from another, and stands in it: config, pod, versions.
      compile_pod: returns the report of a pod.
      path: of the file, JSON lines; None keeps nothing.
    """
    file = epath.Path(path) if path else None
    known = read_lines(file) if file else []
    lines = JsonLines(file, known) if file else None
    try:
        for pod in pods:
            found = next((row for row in known if pod.items() <= row.items()), None)
            if found is None:
                found = pod | compile_pod(pod)
                if lines:
                    lines.write(found)
                    lines.check()
            yield found
    finally:
        if lines:
            lines.close()


def table(rows: Sequence[Row]) -> str:
    """Returns the rows for people; efficiency is speed a chip over that of the first that fits."""
    lines = [_line("pod", "mesh", "batch", "a chip", "step", "links", "speed", "efficiency", "MFU")]
    first = next((row for row in rows if row["fits"]), None)
    for row in rows:
        chips = row["chips"]
        own = (
            row["topology"],
            "x".join(map(str, row["mesh"].values())),
            str(row["batch_size"]),
            f"{row['batch_size'] / chips:g}",
        )
        if not row["fits"]:
            lines.append(_line(*own, "does not fit"))
            continue
        speed, best = (of["images_per_second"] / of["chips"] for of in (row, first))
        lines.append(
            _line(
                *own,
                f"{1e3 * row['step_seconds']:.2f} ms",
                f"{1e3 * row['link_seconds']:.2f} ms",
                f"{speed:.1f} a chip",
                f"{100 * speed / best:.1f} %",
                f"{100 * row['mfu_bound']:.1f} %",
            )
        )
    return "\n".join(lines)


def _line(*cells: str) -> str:
    widths = 14, 10, 7, 7, 12, 11, 14, 10, 7
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=False)).rstrip()
