"""The shape of a backbone in plain numbers, for all who need no array: workers, checks, figures.

Nothing here imports JAX.
"""

import dataclasses
import itertools

Size = tuple[int, int]  # height and width, or rows and columns


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The shape of a backbone.

    Attributes:
      patch_size: side of the patches that images are cut into, in pixels.
      stride: side of what one output token stands for, in pixels, a multiple of `patch_size`; a
        cell of the mask grid has it, too.
      widths: token dimension, by stage.
      depths: number of blocks, by stage.
      heads: attention heads of a block, by stage.
      hidden: hidden units of a block's feed-forward network, by stage.
      gated: whether that has two layers before its activations, not one.
      registers: number of register tokens, R.
      has_class_token: whether `Tokens.cls` is a token of its own, and not the patches' mean.
    """

    patch_size: int
    stride: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...] = ()
    gated: bool = False
    registers: int = 0
    has_class_token: bool = True

    @property
    def width(self) -> int:
        """Dimension of the output tokens, D."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """Number of blocks of all stages."""
        return sum(self.depths)

    def patches(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (rows, columns) of patches that an image of (height, width) is cut into."""
        rows, columns = (side // self.patch_size for side in size)
        return rows, columns

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (rows, columns) of output patches for an image of (height, width) pixels.

        Pixels that do not fill a patch are cut off; patches that do not fill a cell are padded.
        """
        cell = self.stride // self.patch_size
        rows, columns = (-(-side // cell) for side in self.patches(size))
        return rows, columns

    def whole(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the largest (height, width) within a size that whole cells fill."""
        height, width = (side // self.stride * self.stride for side in size)
        return height, width

    def missing(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns how many (rows, columns) of pixels make an image of a size one of whole cells."""
        rows, columns = (-side % self.stride for side in size)
        return rows, columns

    def size(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) in pixels of a grid of whole cells."""
        rows, columns = grid
        return rows * self.stride, columns * self.stride

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Returns what a patch stands for in pixels: (top, left, bottom, right)."""
        return (*self.size((row, column)), *self.size((row + 1, column + 1)))

    def nearest(self, size: tuple[float, float]) -> tuple[int, int]:
        """Returns the (height, width) of whole cells that is nearest to a size; may be 0."""
        height, width = (round(side / self.stride) * self.stride for side in size)
        return height, width

    def width_of(self, block: int) -> int:
        """Returns the token dimension of a block, which counts from 0 over all stages."""
        return next(
            width
            for width, end in zip(self.widths, itertools.accumulate(self.depths), strict=True)
            if block < end
        )

    def last_blocks(self, n: int) -> range:
        """Returns the numbers of the last n blocks, which count from 0 over all stages."""
        return range(self.depth - n, self.depth)


@dataclasses.dataclass(frozen=True)
class StageShape:
    """Equal blocks, on tokens of one view.

    Attributes:
      depth: number of blocks.
      width: token dimension, D.
      hidden: hidden units of the feed-forward network, F.
      heads: of attention.
      tokens: number of tokens.
      keys: to how many a token attends.
    """

    depth: int
    width: int
    hidden: int
    heads: int
    tokens: int
    keys: int


def stage_windows(window: int, grid: Size, stages: int) -> list[tuple[int, int]]:
    """Returns by stage of a Swin the side of its windows, and by how much every other block shifts.

    A window is no larger than the grid of a global view, in which case none is shifted.

    Args:
      window: side that windows are to have, in tokens.
      grid: (rows, columns) of patches of a global view.
      stages: how many there are.
    """
    smallest = [-(-min(grid) // 2**stage) for stage in range(stages)]
    return [(min(window, side), window // 2 if side > window else 0) for side in smallest]
