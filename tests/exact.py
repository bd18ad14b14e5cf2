"""Whether a function multiplies float32 matrices exactly, on accelerators too."""

import jax
import jax.numpy as jnp
from jax.lax import Precision


def inexact_products(function, *arguments):
    """Returns the float32 products in a function that an accelerator may round; none is right.

    The default precision is bfloat16 on a TPU and TF32 on a GPU, so a product has to ask for the
    highest one itself. Walks all that the function consists of, whatever lies in what.
    """
    with jax.default_matmul_precision("default"):
        jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    products = [eqn for eqn in _equations(jaxpr) if "precision" in eqn.params]
    return [
        f"{eqn.primitive} of {', '.join(str(x.aval) for x in eqn.invars)}"
        for eqn in products
        if all(x.aval.dtype == jnp.float32 for x in eqn.invars)
        and eqn.params["precision"] not in (Precision.HIGHEST, (Precision.HIGHEST,) * 2)
    ]


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _jaxprs(list(eqn.params.values())):
            yield from _equations(inner)


def _jaxprs(value):
    if isinstance(value, list | tuple):
        for item in value:
            yield from _jaxprs(item)
    elif hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from _jaxprs(value.jaxpr)
