"""A Swin of another project: its sizes by its tables, its buffers, and what differs elsewhere."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.geometry import Size, stage_windows
from ibot_jax.models.swin import shift_mask
from ibot_jax.weights.foreign.original_names import INDEX, TABLE, relative_index

_MASK = "attn_mask"  # what is added to the attention of shifted windows


def heads_and_windows(
    shapes: Mapping[str, Sequence[int]], stages: int, path: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the attention heads of each stage, and the sides of its windows, by its tables.

    Args:
      shapes: of tensors, by the original's names.
      stages: how many there are.
      path: of the file, for messages.

    Raises:
      UserError: if a table is none of square windows.
    """
    heads, windows = [], []
    for stage in range(stages):
        name = f"layers.{stage}.blocks.0.attn.{TABLE}"
        shape = tuple(shapes[f"backbone.{name}"])
        window = (math.isqrt(shape[0]) + 1) // 2
        if len(shape) != 2 or 0 in shape or (2 * window - 1) ** 2 != shape[0]:
            raise UserError(f"{path} has {name} of shape {shape}, which is of no square windows")
        windows.append(window)
        heads.append(shape[1])
    return tuple(heads), tuple(windows)


def told_grid(windows: Sequence[int]) -> Size | None:
    """Returns (rows, columns) of patches where they tell why a window is smaller than others."""
    for stage, window in enumerate(windows):
        if window < max(windows):
            return (window * 2**stage,) * 2
    return None


def is_buffer(name: str) -> bool:
    """Returns whether a tensor is a buffer of an attention in windows, which follows from sizes."""
    return name.rpartition(".")[2] in (INDEX, _MASK)


def check_buffers(buffers: Mapping[str, np.ndarray], model: Section, size: Size, path: str) -> None:
    """Compares a file's buffers with those that follow from a model's sizes.

    Args:
      buffers: by the names of the file.
      model: the config's section.
      size: of the images that the model is trained for.
      path: of the file, for messages.

    Raises:
      UserError: if one is another.
    """
    height, width = size
    for name, buffer in buffers.items():
        stage = int(re.search(r"layers\.(\d+)\.", name).group(1))
        grid, window, shift = _stages(model, size)[stage]
        if name.endswith(INDEX):
            expected = relative_index(window)
        else:
            rows, columns = (side + -side % window for side in grid)
            expected = shift_mask((rows, columns), window, shift) if shift else None
        if expected is None or not np.array_equal(buffer, expected):
            raise UserError(
                f"{path} has {name}, which is not that of windows of {window} tokens shifted by "
                f"{shift} in images of {height}x{width}; say of which by --grid=HxW"
            )


def otherwise_in_timm(model: Section, size: Size) -> str:
    """Returns what timm's Swin computes otherwise on images of the trained size; "" if nothing."""
    for (grid, window, shift), depth in zip(_stages(model, size), model.stage_depths, strict=True):
        if shift and any(side % window for side in grid):
            return (
                f"timm shifts windows before it pads, and those of {window} tokens do not fill a "
                f"grid of {grid[0]}x{grid[1]}"
            )
        if not shift and depth > 1 and max(grid) > window:
            return (
                f"timm shifts windows of {window} tokens along the longer side of a grid of "
                f"{grid[0]}x{grid[1]}"
            )
    return ""


def otherwise_in_transformers(model: Section, size: Size) -> str:
    """Returns what transformers' Swin computes otherwise, on such images; "" if nothing."""
    windows = {window for _, window, _ in _stages(model, size)}
    if len(windows) > 1:
        return (
            "transformers has windows of one size in all stages, not of "
            f"{' and '.join(map(str, sorted(windows)))} tokens"
        )
    return ""


def _stages(model: Section, size: Size) -> list[tuple[Size, int, int]]:
    """Returns by stage the grid of tokens, the side of the windows, and their shift."""
    rows, columns = geometry_of(model).patches(size)
    found = stage_windows(model.window, (rows, columns), len(model.stage_depths))
    return [
        ((-(-rows // 2**stage), -(-columns // 2**stage)), window, shift)
        for stage, (window, shift) in enumerate(found)
    ]
