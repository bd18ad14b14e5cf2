"""What the section `high_res` says: views of other sizes, in the last part of a run."""

import dataclasses
from typing import Any

from ibot_jax.config.section import Section


@dataclasses.dataclass(frozen=True)
class Resized:
    """The section `data`, but for the size of its views."""

    data: Section
    global_size: tuple[int, int]
    local_size: tuple[int, int]

    def __getattr__(self, name: str) -> Any:
        """Returns the value of a key of the section."""
        return getattr(self.data, name)


def late_views(high_res: Section, data: Section) -> tuple[Resized, ...]:
    """Returns the section `data` for each size that the views of the last part have.

    A side is the shorter one; views keep the proportions that they have before.

    Args:
      high_res: the section of a config.
      data: likewise.
    """
    if not high_res.last:
        return ()
    sides = zip(high_res.global_sides, high_res.local_sides, strict=False)  # else a mistake
    return tuple(
        Resized(data, _scaled(data.global_size, of_global), _scaled(data.local_size, of_local))
        for of_global, of_local in sides
    )


def all_views(high_res: Section, data: Section) -> tuple[Section, ...]:
    """Returns the section `data`, and then that for each size of the last part."""
    return data, *late_views(high_res, data)


def largest_views(high_res: Section, data: Section) -> Section:
    """Returns that of `all_views` with the most pixels."""
    return max(all_views(high_res, data), key=_pixels)


def _scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    height, width = (round(side * own / min(size)) for own in size)
    return height, width


def _pixels(data: Section) -> int:
    (height, width), (of_local, by_local) = data.global_size, data.local_size
    return data.global_views * height * width + data.local_views * of_local * by_local
