"""Learning rates of single parameters, as factors of the schedule's."""

from collections.abc import Callable

import jax
import optax

from ibot_jax.config import globs
from ibot_jax.errors import UserError
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.parameters import Params, layer_of, names_of
from ibot_jax.optim.lora import PART

KEY = "optim.rates"
Factors = Callable[[Params], Params]  # from parameters to the tree with a float at each leaf


def scale_by(factors: Factors) -> optax.GradientTransformation:
    """Multiplies each tensor's update by its factor."""

    def update(updates, params):
        return jax.tree.map(lambda update, factor: update * factor, updates, factors(params))

    return optax.stateless(update)


def layer_decay(decay: float, geometry: Geometry) -> Factors:
    """Returns the factors of BEiT's layer decay.

    Layer n of the backbone has decay ** (depth + 1 - n), and so have its adapters; all that is no
    backbone has 1.

    Args:
      decay: in (0, 1].
      geometry: of the backbone; for the numbers of layers see `layer_of`.
    """
    last = geometry.depth + 1

    def factor(name: str) -> float:
        part, *path = name.split("/")
        return decay ** (last - layer_of(path, geometry)) if part in ("backbone", PART) else 1.0

    return lambda params: jax.tree.map(factor, names_of(params))


def given_rates(text: str) -> Factors:
    """Returns the factors that the text of `optim.rates`, checked, gives; 1 where it gives none.

    The result raises a UserError if an entry names no parameter.
    """
    entries = [(glob, float(value)) for glob, value in globs.parse(text)]

    def factors(params: Params) -> Params:
        names = names_of(params)
        try:
            by_name = globs.by_name(entries, jax.tree.leaves(names))
        except ValueError as error:
            raise UserError(f"{KEY}={text!r} {error}") from None
        return jax.tree.map(lambda name: by_name.get(name, 1.0), names)

    return factors
