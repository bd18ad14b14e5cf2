"""Which parameters a run freezes, and for how long.

What is frozen has no gradient, no moments and no decay: it stays as it is, bit for bit, and so does
the teacher's copy of it. Its moments begin when it thaws.
"""

import dataclasses

import jax

from ibot_jax.config import globs
from ibot_jax.config.plan import Plan
from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params, names_of
from ibot_jax.optim.lora import base_of

KEY = "optim.freeze"


@dataclasses.dataclass(frozen=True)
class Freezing:
    """What is frozen in a run, by the globs of `config.globs`.

    Attributes:
      text: as the config writes it.
      entries: (glob, steps) for each entry of it.
      total: steps of the run.
    """

    text: str = ""
    entries: tuple[tuple[str, int], ...] = ()
    total: int = 0

    @property
    def thaws(self) -> tuple[int, ...]:
        """The steps, rising, before which something thaws while the run goes on."""
        return tuple(sorted({steps for _, steps in self.entries if 0 < steps < self.total}))

    def steps(self, params: Params) -> Params:
        """Returns the tree with, at each leaf, how many steps it is frozen; `total` for all.

        Raises:
          UserError: if an entry names no parameter, or a matrix that has an adapter is not frozen
            all along.
        """
        names = names_of(params)
        try:
            by_name = globs.by_name(self.entries, jax.tree.leaves(names))
        except ValueError as error:
            raise UserError(f"{KEY}={self.text!r} {error}") from None
        steps = jax.tree.map(lambda name: min(by_name.get(name, 0), self.total), names)
        for path in base_of(params):
            name = "/".join(("backbone", *path, "kernel"))
            if by_name.get(name, 0) < self.total:
                raise UserError(
                    f"{KEY}={self.text!r} lets {name} learn, which has an adapter; name others, or "
                    "leave its layer out of lora.targets"
                )
        return steps

    def trained(self, params: Params, step: int) -> Params:
        """Returns the tree with True at each leaf that a step trains; steps count from 0."""
        return jax.tree.map(lambda frozen: frozen <= step, self.steps(params))


def make_freezing(text: str, plan: Plan, *, adapters: bool = False) -> Freezing:
    """Returns what is frozen in a run.

    Args:
      text: of `optim.freeze`, checked.
      plan: the run's length.
      adapters: whether the backbone has some, and is frozen all along but for what the text says.
    """
    entries = tuple((glob, plan.steps(KEY, value)) for glob, value in globs.parse(text))
    first = (("backbone", plan.total_steps),) if adapters else ()
    return Freezing(text, first + entries, plan.total_steps)


def split(params: Params, chosen: Params) -> tuple[Params, Params]:
    """Returns the chosen leaves and the others, as two trees with None where a leaf lacks.

    Args:
      params: a tree.
      chosen: the tree with a bool at each leaf.
    """
    ours = jax.tree.map(lambda leaf, mine: leaf if mine else None, params, chosen)
    others = jax.tree.map(lambda leaf, mine: None if mine else leaf, params, chosen)
    return ours, others


def join(ours: Params, others: Params) -> Params:
    """Is the inverse of `split`; a leaf is what is no dict."""
    return jax.tree.map(
        lambda a, b: b if a is None else a,
        ours,
        others,
        is_leaf=lambda node: not isinstance(node, dict),
    )
