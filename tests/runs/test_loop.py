"""The loop: whatever ends it, the last good state was saved, or is."""

import contextlib
import os
import signal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.config.plan import Plan
from ibot_jax.errors import SaveError, TrainingError, UserError
from ibot_jax.parallel.agreement import until_told
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.signals import Interrupted
from ibot_jax.parallel.watchdog import Watchdog
from ibot_jax.runs.loop import Loop
from ibot_jax.runs.reporting.goodput import Goodput

BATCH = {"x": np.ones(8, np.float32)}


@flax.struct.dataclass
class State:
    step: jax.Array
    finite: jax.Array
    total: jax.Array


class Files:
    """What a run writes: in memory, as the loop sees checkpoints, reporter and lock.

    Attributes:
      saved: {step: total}.
      figures: {step: recorded}.
      events: in their order.
      failure: what `check` and saving raise, by the name of the method.
    """

    def __init__(self):
        self.saved, self.figures, self.events, self.failure = {}, {}, [], {}
        self.evaluated, self.goodput = False, Goodput()

    def latest_step(self):
        return max(self.saved, default=None)

    def save(self, state):
        self._raise("save")
        self.events.append(f"save {int(state.step)}")
        self.saved.setdefault(int(state.step), float(state.total))

    def record(self, step, **figures):
        assert step in self.saved
        self.figures[step] = figures

    def check(self):
        self._raise("check")

    def _raise(self, name):
        if name in self.failure:
            raise self.failure[name]

    def nothing(self, *args, **options):
        pass

    wait = close = flush = say = step_done = train = nothing

    @contextlib.contextmanager
    def paused(self, what):
        del what
        yield


class Counting(Loop):
    figure = "accuracy"
    measure = None

    def _measure(self, state):
        self._checkpoints.events.append(f"measure {int(state.step)}")
        if self.measure:
            self.measure()
        return {"accuracy": float(state.total), "rank": 1.0}

    def _report_measured(self, step, values):
        self._checkpoints.events.append(f"report {step}")

    def _not_finite(self, step, metrics):
        return TrainingError("not finite")


@jax.jit
def add(state, batch, key):
    del key
    state = state.replace(step=state.step + 1, total=state.total + batch["x"].sum())
    return state, {"finite": state.finite, "loss": state.total}


class Run:
    """A run of 9 steps that saves each 4, and evaluates each 3."""

    def __init__(self, step=0):
        self.files = Files()
        plan = Plan(steps_per_epoch=9, total_steps=9, batch_size=8)
        self.loop = Counting(
            plan,
            make_mesh(),
            self.files,
            self.files,
            self.files,
            Watchdog(0),
            log_every=1,
            save_every=4,
            evaluate_every=3,
        )
        self.step = step

    def __call__(self, train_step=add, batches=None):
        state = State(jnp.int32(self.step), jnp.bool_(True), jnp.float32(8 * self.step))
        batches = [BATCH] * (9 - self.step) if batches is None else batches
        return self.loop.run(state, iter(batches), train_step, seed=0)

    def fails(self, error, **arguments):
        """Returns the notes of the error that ends it."""
        with pytest.raises(error) as raised:
            self(**arguments)
        return getattr(raised.value, "__notes__", [])


def at_step(number, action):
    """Returns a step function that does something before, or instead of, one of its steps."""

    def step(state, batch, key):
        if int(state.step) + 1 == number:
            action(state)
        return add(state, batch, key)

    return step


def raising(error):
    def action(*args):
        raise error

    return action


def test_each_evaluation_comes_after_a_save_and_adds_its_figure():
    run = Run()
    assert run() == 0
    assert run.files.saved == {step: 8.0 * step for step in (3, 4, 6, 8, 9)}
    assert run.files.figures == {step: {"accuracy": 8.0 * step} for step in (3, 6, 9)}
    evaluation = ["save 3", "measure 3", "report 3"]
    assert run.files.events[:5] == ["measure 0", "report 0", *evaluation]


def test_an_error_in_an_evaluation_costs_no_step():
    run = Run()
    run.files.evaluated = True  # as far as the first step goes
    run.loop.measure = raising(ValueError("range() arg 3 must not be zero"))
    assert run.fails(ValueError) == ["while step 3 was evaluated", "saved at step 3"]
    assert run.files.saved == {3: 24.0}


def test_before_the_first_step_nothing_is_saved():
    """Or a start that failed would be resumed, under whatever config comes next."""
    run = Run()
    run.loop.measure = raising(ValueError("odd"))
    saved = "nothing is saved before the first step"
    assert run.fails(ValueError) == ["while step 0 was evaluated", saved]
    assert run.files.saved == {}

    run = Run()
    notes = run.fails(ValueError, train_step=at_step(1, raising(ValueError("odd"))))
    assert notes == ["in step 1", saved]
    assert run.files.saved == {}

    run = Run()
    run.loop.measure = raising(Interrupted(signal.SIGTERM))
    said = []
    run.files.say = said.append
    assert run() == signal.SIGTERM
    assert run.files.saved == {}
    assert said == ["SIGTERM: stopped before the first step; the same command starts anew"]


def test_an_error_in_a_step_leaves_the_step_before():
    run = Run()
    action = raising(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    notes = run.fails(jax.errors.JaxRuntimeError, train_step=at_step(6, action))
    assert notes == ["in step 6", "saved at step 5"]
    assert run.files.saved[5] == 40.0


def test_a_state_that_went_with_a_failed_step_is_not_saved():
    def action(state):
        state.total.delete()
        raise ValueError("odd")

    run = Run()
    notes = run.fails(ValueError, train_step=at_step(6, action))
    assert notes[1].startswith(
        "its state could not be saved (the failed step was given its memory)"
    )
    assert notes[1].endswith("that of step 4 is")
    assert max(run.files.saved) == 4


def broken_batches():
    yield from [BATCH] * 5
    raise OSError(5, "Input/output error")


def test_an_error_of_the_input_is_an_end_with_a_save():
    run = Run()
    notes = run.fails(OSError, batches=broken_batches())
    assert notes == ["while a batch was made", "saved at step 5"]
    assert run.files.saved[5] == 40.0


def test_a_log_that_cannot_be_written_ends_the_run_with_a_save():
    run = Run()

    def action(state):
        run.files.failure["check"] = TrainingError("metrics.jsonl cannot be written")

    assert run.fails(TrainingError, train_step=at_step(6, action)) == ["saved at step 6"]


def test_a_save_that_fails_is_not_tried_again():
    run = Run()

    def action(state):
        run.files.failure["check"] = SaveError("disk full")

    assert run.fails(SaveError, train_step=at_step(5, action)) == []
    assert max(run.files.saved) == 4


def test_where_nothing_can_be_saved_the_error_says_what_there_is():
    run = Run()

    def action(state):
        run.files.failure["save"] = SaveError("disk full")
        raise ValueError("odd")

    notes = run.fails(ValueError, train_step=at_step(6, action))
    assert notes[1] == "its state could not be saved (disk full), that of step 4 is"


def test_a_mistake_that_comes_up_in_a_run_is_no_mistake_of_the_command_any_more():
    run = Run()
    run.files.evaluated = True
    run.loop.measure = raising(UserError("the folder is gone"))
    with pytest.raises(TrainingError, match="^the folder is gone; saved at step 3$"):
        run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_step_saves_that_step(number):
    run = Run()
    action = at_step(5, lambda state: os.kill(os.getpid(), number))
    assert run(train_step=action) == number
    # Batches are voted on before they are used, so the one that follows is still trained on.
    assert max(run.files.saved) == 6
    assert "measure 6" not in run.files.events


def test_a_signal_in_an_evaluation_ends_it_at_its_next_batch():
    run = Run()
    run.files.evaluated = True
    seen = []

    def measure():
        for batch in until_told(range(100)):
            seen.append(batch)
            os.kill(os.getpid(), signal.SIGTERM)

    run.loop.measure = measure
    assert run() == signal.SIGTERM
    assert seen == [0]
    assert run.files.saved == {3: 24.0} and run.files.figures == {}
    assert "report 3" not in run.files.events


@pytest.mark.parametrize("method", ["save", "close"])
def test_a_signal_in_a_save_lets_it_end(method, monkeypatch):
    run = Run()
    original = getattr(Files, method)

    def interrupted(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Files, method, interrupted)
    assert run() == (signal.SIGTERM if method == "save" else 0)  # complete by then
    assert run.files.saved[max(run.files.saved)] == 8.0 * max(run.files.saved)


def test_what_a_signal_kept_from_being_evaluated_is_evaluated_by_the_resumed_run():
    run = Run(step=6)
    run.files.saved[6] = 48.0
    assert run() == 0
    assert run.files.figures == {step: {"accuracy": 8.0 * step} for step in (6, 9)}
