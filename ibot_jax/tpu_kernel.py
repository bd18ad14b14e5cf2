"""How this project's Pallas kernels run: compiled on a TPU, interpreted elsewhere."""

import functools
from collections.abc import Callable, Sequence

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array

PREFIX = "kernel_"  # of all kernels' names, by which `tools.tpu_program` knows them
_MEMORY = 64 * 2**20  # bytes that a kernel may use on the chip: more than the compiler's default


def run_kernel(
    kernel: Callable[..., None], name: str, steps: int, inputs: Sequence[Array], **kwargs
):
    """Runs a kernel over a grid of one dimension, whose steps do not depend on each other.

    On a TPU within manual control of all axes of the mesh (`sharding.average_gradients`): no
    partitioner takes a kernel apart.

    Args:
      kernel: of references to its blocks.
      name: of its operation in the compiled program, behind `PREFIX`; tells its shapes, too.
      steps: of the grid.
      inputs: arrays.
      kwargs: of `pallas_call`.

    Returns:
      What `pallas_call` gives.
    """

    def run(*inputs, interpret):
        return pl.pallas_call(
            kernel,
            grid=(steps,),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",), vmem_limit_bytes=_MEMORY
            ),
            name=PREFIX + name,
            metadata={"steps": str(steps)},  # read by `tools.tpu_program`
            interpret=interpret,
            **kwargs,
        )(*inputs)

    return jax.lax.platform_dependent(
        *inputs,
        tpu=functools.partial(run, interpret=False),
        default=functools.partial(run, interpret=True),
    )
