"""What of a model learns in a fine-tuning: all of it, some of it, or adapters beside it."""

import dataclasses

import jax

from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params
from ibot_jax.optim import freezing
from ibot_jax.optim.lora import Lora, make_lora


@dataclasses.dataclass(frozen=True)
class Learned:
    """What learns.

    Attributes:
      lora: adapters beside the backbone, whose matrices then stay as they are.
      frozen: what stays as it is.
    """

    lora: Lora
    frozen: freezing.Freezing

    def split(self, params: Params) -> tuple[Params, Params]:
        """Returns what learns and what does not, each with None where a leaf lacks."""
        return freezing.split(params, self.frozen.trained(params, 0))

    def numbers(self, params: Params) -> tuple[int, int]:
        """Returns how many numbers learn, and how many there are."""
        ours, others = (sum(x.size for x in jax.tree.leaves(t)) for t in self.split(params))
        return ours, ours + others


ALL = Learned(Lora(), freezing.Freezing())


def make_learned(config: Section, plan: Plan) -> Learned:
    """Returns what learns, of `optim.freeze` and the section `lora` of a recipe.

    Raises:
      UserError: if something is to thaw.
    """
    lora = make_lora(config.lora)
    frozen = freezing.make_freezing(config.optim.freeze, plan, adapters=bool(lora.rank))
    if frozen.thaws:
        raise UserError(
            f"{freezing.KEY}={config.optim.freeze!r} thaws before the end of {plan.total_steps:,} "
            "steps; a fine-tuning freezes all along: write 100%"
        )
    return Learned(lora, frozen)
