"""How this project's Pallas kernels run: compiled on a TPU, interpreted elsewhere."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

PREFIX = "kernel_"  # of all kernels' names, by which `tools.tpu_program` knows them


def run_kernel(
    kernel: Callable[..., None],
    name: str,
    grid: tuple[int, ...],
    inputs: Sequence[Any],
    memory: int = 64 * 2**20,
    **kwargs,
):
    """Runs a kernel over a grid.

    On a TPU within manual control of all axes of the mesh (`average_gradients`): no
    partitioner takes a kernel apart.

    Args:
      kernel: of references to its blocks.
      name: of its operation in the compiled program, behind `PREFIX`; tells its shapes, too.
      grid: sizes of its dimensions. Steps along the first do not depend on each other: a chip's
        cores share them. Those along others run in order.
      inputs: arrays, or trees of them.
      memory: bytes of vector memory that the kernel may fill, where there are as many; the
        compiler's default is less.
      kwargs: of `pallas_call`.

    Returns:
      What `pallas_call` gives.
    """

    def run(*inputs, interpret):
        return pl.pallas_call(
            kernel,
            grid=grid,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", *["arbitrary"] * (len(grid) - 1)),
                vmem_limit_bytes=memory,
            ),
            name=PREFIX + name,
            metadata={"steps": str(math.prod(grid))},  # read by `tools.tpu_program`
            interpret=interpret,
            **kwargs,
        )(*inputs)

    return jax.lax.platform_dependent(
        *inputs,
        tpu=functools.partial(run, interpret=False),
        default=functools.partial(run, interpret=True),
    )
