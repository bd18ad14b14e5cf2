"""The training step: one pure function (state, batch, rng, frozen) -> (state, metrics).

A step turns uint8 views into normalised ones, asks the method for targets and for terms, forms the
student's gradients and passes them through the Optax chain, whose last link moves the teacher; what
the method keeps moves last. It does not know what the method is.

In profiles, and in what `tools.aot` says of a compiled step, operations are found under "noise",
"views", "teacher", "student", "gradients" (between devices) and "optimizer", and below these under
losses and modules.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from ibot_jax.methods.method import Method, Networks, Tree
from ibot_jax.methods.metrics import DEVICES, METRICS, of_batch
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.methods.views import Batch, Noise, Views
from ibot_jax.models.parameters import Params
from ibot_jax.optim.freezing import join, split
from ibot_jax.optim.schedules import Schedule
from ibot_jax.parallel.gradients import average_gradients

Array = jax.Array
Metrics = dict[str, Array]
Step = Callable[..., tuple[TrainState, Metrics]]


@flax.struct.dataclass
class Averages:
    """Means over the images of some rows, or of the batch.

    Attributes:
      loss: the sum of the weighted losses.
      terms: of the method, the losses weighted, without those of which the largest counts.
      means: of the targets.
    """

    loss: Array
    terms: dict[str, Tree]
    means: Tree


def make_init(
    init_student: Callable[[Array], Params],
    tx: optax.GradientTransformationExtraArgs,
    method: Method,
) -> Callable[[Array], TrainState]:
    """Returns the function from a key to a run's first state.

    Args:
      init_student: from the key to the student's parameters.
      tx: the Optax chain, which makes the teacher from them.
      method: what is learned.
    """

    def init(rng: Array) -> TrainState:
        params = init_student(rng)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            buffers=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), method.buffers),
            finite=jnp.ones((), bool),
        )

    return init


def make_train_step(
    method: Method,
    tx: optax.GradientTransformationExtraArgs,
    schedules: Mapping[str, Schedule],
    *,
    make_views: Callable[[Batch, Any], Views],
    draw_noise: Callable[[Array, Batch], Noise],
    trained: Callable[[Params], Tree],
    merged: Callable[[Params], Params] = lambda params: params,
    mesh: jax.sharding.Mesh,
    gathers: Callable[[str], bool] = lambda name: False,
    parts: int,
    dtype: jnp.dtype,
    precision: str,
) -> Step:
    """Returns the training step, a pure function to be jitted with its state donated.

    Its arguments: the state; a batch, see `views.make_views`; the run's key, from which it derives
    this step's by the state's step; and the frozen networks' parameters by name, {} without. It
    returns the next state and metrics, scalars of the parameters' dtype, see `metrics.METRICS`. A
    state that is not `finite` comes back as it was.

    Args:
      method: what is learned.
      tx: the Optax chain; its last link moves the teacher.
      schedules: of the chain, by name, to be reported.
      make_views: from rows of a batch, and `Noise.rope`, to what networks see.
      draw_noise: from a key and the batch.
      trained: from the student's parameters to the tree with True at each that has a gradient; for
        the others none is computed.
      merged: from the student's parameters to those that networks take, differentiable.
      mesh: the devices.
      gathers: from the name of a parameter to whether networks gather it, see `average_gradients`.
      parts: of a device's rows, one after the other.
      dtype: of the parameters.
      precision: of products of float32 where nothing else is said.
    """

    def of_rows(learning, constants, rows):
        still, others, now, rope_noise = constants
        with jax.named_scope("views"):
            views = make_views(rows, rope_noise)
        with jax.named_scope("teacher"):
            networks = Networks(merged(join(learning, still)), **others)
            targets = method.targets(networks, views, now)

        def loss_of(learning):
            with jax.named_scope("student"):
                terms = method.terms(merged(join(learning, still)), views, targets)
            losses = {name: weight * terms[name] for name, weight in method.loss_weights.items()}
            return sum(losses.values()), terms | losses

        (loss, terms), gradients = jax.value_and_grad(loss_of, has_aux=True)(learning)
        largest = {name: terms.pop(name) for name in [*terms] if METRICS[name].over == DEVICES}
        return Averages(loss, terms, targets.means), largest, gradients

    of_all_rows = average_gradients(_part_by_part(of_rows, parts), mesh, gathers)
    schedules = {**schedules, **method.schedules}

    def train_step(
        state: TrainState, batch: Batch, rng: Array, frozen: Mapping[str, Params] | None = None
    ):
        clock = state.step.astype(dtype)
        now = {name: schedule(clock) for name, schedule in schedules.items()}
        others = {
            "teacher": teacher_params(state),
            "frozen": dict(frozen or {}),
            "buffers": state.buffers,
        }
        # For the whole batch at once, so that parts of it see the same.
        with jax.named_scope("noise"):
            noise = draw_noise(jax.random.fold_in(rng, state.step), batch)
        rows = batch if noise.gains is None else batch | {"gains": noise.gains}
        learning, still = split(state.params, trained(state.params))
        constants = still, others, now, noise.rope
        with jax.default_matmul_precision(precision):
            averages, largest, gradients = of_all_rows(learning, constants, rows)
        gradients = join(gradients, jax.tree.map(jnp.zeros_like, still))
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params, step=clock)
            params = optax.apply_updates(state.params, updates)
        moved = state.replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            buffers=method.after(Networks(merged(state.params), **others), averages.means),
        )
        # A finite loss can have gradients that are not, and one update would spoil every tensor.
        with jax.named_scope("optimizer"):  # a compiler makes one pass of it and the above
            grad_norm = optax.tree.norm(gradients)
            finite = state.finite & jnp.isfinite(averages.loss) & jnp.isfinite(grad_norm)
            next_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        metrics = {"loss": averages.loss, **of_batch(averages.terms | largest), **now}
        metrics |= {"grad_norm": grad_norm, "finite": finite}
        metrics = {name: value.astype(dtype) for name, value in metrics.items()}
        return next_state.replace(finite=finite), metrics

    return train_step


def _part_by_part(function: Callable[..., tuple[Tree, Tree, Tree]], parts: int) -> Callable:
    """Lets a function see some rows at a time.

    Args:
      function: of (params, constants, rows) to what `average_gradients` takes: averages, numbers of
        which the largest counts, and gradients.
      parts: of the rows.

    Returns:
      A function of the same arguments, to the same of all rows.
    """
    if parts == 1:
        return function

    def of_all(params, constants, rows):
        def add(total, rows):
            new = function(params, constants, rows)
            ways = jnp.add, jnp.maximum, jnp.add
            return tuple(map(jax.tree.map, ways, total, new)), None

        by_part = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), rows)
        first = jax.tree.map(lambda x: x[0], by_part)
        shapes = jax.eval_shape(function, params, constants, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (averages, largest, gradients), _ = jax.lax.scan(add, zeros, by_part)
        averages, gradients = jax.tree.map(lambda x: x / parts, (averages, gradients))
        return averages, largest, gradients

    return of_all
