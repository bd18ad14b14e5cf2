"""The largest batch that fits a pod, found in a few compilations."""

from collections.abc import Callable

_STATE = ("student", "teacher", "moments")


def largest_batch(
    compile_batch: Callable[[int], dict], start: int, chips: int, most: int
) -> tuple[dict | None, dict | None]:
    """Finds the largest batch that fits, to the sixteenth or to one image a chip.

    Memory grows almost linearly with the batch, and without images a chip holds at least the
    state, so that a straight line through what is known leads close; compilations take minutes.

    Args:
      compile_batch: from a batch size to the report of `ahead.compile_ahead`.
      start: a batch size to begin with.
      chips: over which the batch is spread; batches are multiples of it.
      most: images in the data, which bound a batch.

    Returns:
      The reports of the largest batch that fits, None where not even one image a chip does, and
      of the smallest one tried that does not, None where all the data fit.
    """
    fits, fails = {}, {}  # images of a chip -> report
    rows = max(start // chips, 1)
    while True:
        report = compile_batch(rows * chips)
        (fits if report["fits"] else fails)[rows] = report
        low, high = max(fits, default=0), min(fails, default=None)
        step = max(low // 16, 1)
        if (high is not None and high - low <= step) or low == most // chips:
            return fits.get(low), fails.get(high)
        rows = _predict(fails) or _predict(fits) or 2 * low
        if high is not None and rows > high - step:
            rows = (low + high) // 2
        rows = min(max(rows, low + step), most // chips)


def _predict(reports: dict[int, dict]) -> int | None:
    """Returns the images of a chip that would fill it, None if nothing tells.

    Steps that fit and steps that do not are looked at apart: near the chip's memory the compiler
    computes things again to save some, and then figures on this side grow no more.
    """
    figures = {
        rows: sum(report["memory"].values())
        for rows, report in reports.items()
        if None not in report["memory"].values()
    }
    if not figures:
        return None
    any_report = next(iter(reports.values()))
    if len(figures) == 1:
        figures[0] = sum(any_report["memory"][kind] for kind in _STATE)
    limit = any_report["memory_of_chip"]
    (x0, y0), (x1, y1) = sorted(figures.items(), key=lambda point: abs(limit - point[1]))[:2]
    slope = (y1 - y0) / (x1 - x0)
    return int(x0 + (limit - y0) / slope) if slope > 0 else None
