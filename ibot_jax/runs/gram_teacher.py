"""The gram teacher of a run, which now and then becomes the teacher as it is then.

    frozen/gram-STEP    its backbone from that step on, what Orbax writes; `frozen.gram` is in
                        frozen/gram.npz, as other frozen networks

It is an argument of the step, as all frozen networks are: never differentiated, in no checkpoint.
Which of them a step compares with follows from its number, so that a resumed run takes the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.config.anchor import anchor_is_kept, updated_at
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.errors import SaveError
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.models.parameters import Params
from ibot_jax.weights.read import read_like, readable


class GramTeacher:
    """What the gram teacher is in each step.

    All processes call it alike, step by step.
    """

    def __init__(
        self,
        gram: Section,
        plan: Plan,
        folder: epath.Path,
        layout: TrainState,
        given: Params | None,
    ):
        """Prepares it.

        Args:
          gram: the config's section.
          plan: of the run.
          folder: its workdir.
          layout: of the run's state, shapes that say where its arrays lie.
          given: the first gram teacher's parameters; None if it is the teacher.
        """
        self._on = anchor_is_kept(gram)
        self._schedule = gram_schedule(gram, plan)
        self._folder = folder / "frozen"
        self._layout = {"backbone": teacher_params(layout)["backbone"]}
        self._given = given
        self._since, self._params = None, given

    def shapes(self, step: int) -> dict[str, Any]:
        """Returns what a step takes as frozen["gram"], {} if nothing: arrays, or their shapes."""
        if not self._on or step < self._schedule["start"]:
            return {}
        since = updated_at(step, **self._schedule, given=self._given is not None)
        return {"gram": self._given if since is None else self._layout}

    def __call__(self, step: int, state: TrainState) -> dict[str, Params]:
        """Returns what a step takes, read or copied from the teacher where it changes.

        Args:
          step: that is about to be computed.
          state: of before it.

        Raises:
          UserError: if it was kept in the workdir, and is not there any more.
          SaveError: if it cannot be kept.
        """
        if not self.shapes(step):
            return {}
        since = updated_at(step, **self._schedule, given=self._given is not None)
        if since == step:
            self._params = _copy({"backbone": teacher_params(state)["backbone"]})
            self._keep(step)
        elif since != self._since:
            name = _name(since)
            remedy = "restore it from a copy of the workdir, or begin anew in another one"
            with readable(self._folder / name, remedy):
                self._params = read_like(self._folder, name, self._layout)
        self._since = since
        return {"gram": self._params}

    def _keep(self, step: int) -> None:
        path = self._folder / _name(step)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(path, self._params, force=True)  # a resumed run may come again
        except Exception as error:  # Orbax passes on whatever its threads met
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SaveError(f"the gram teacher could not be written to {path}: {reason}") from error


def gram_schedule(gram: Section, plan: Plan) -> dict[str, int]:
    """Returns when the gram teacher changes, the arguments of `anchor.updated_at` in steps."""
    return {
        "start": plan.steps("gram.start", gram.start),
        "every": plan.steps("gram.every", gram.every) if gram.every else 0,
        "most": gram.updates,
    }


def _name(step: int) -> str:
    return f"gram-{step}"


@jax.jit
def _copy(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)
