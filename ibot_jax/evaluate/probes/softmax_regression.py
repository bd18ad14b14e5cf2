"""Multinomial logistic regression with an L2 penalty, to the optimum, over all devices.

It minimises the mean cross-entropy plus l2 / 2 times the squared norm of the weights; the bias is
free. (scikit-learn's C is 1 / (l2 * images).) The problem is convex: L-BFGS finds its minimum. The
features are scaled to length 1, as the original's, and centred, which moves nothing but the bias,
and lets the solver converge sooner.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ibot_jax.evaluate.features.sharded import shard, summed
from ibot_jax.evaluate.measures.neighbours import chunks, unit
from ibot_jax.parallel.layouts import batch_sharding, num_shards, replicated

Array = jax.Array

# Logits that a device forms at a time: 2**24 of float32 are 64 MiB.
_MAX_ENTRIES = 2**24
_TOLERANCE = 1e-6  # of the gradient's largest entry
_MEMORY = 10  # steps that L-BFGS remembers


@dataclasses.dataclass(frozen=True)
class Fit:
    """A classifier of features of length 1.

    Attributes:
      l2: the penalty.
      kernel: [D, C] float32, NumPy's.
      bias: [C] float32, NumPy's.
      steps: of the solver.
      gradient: largest entry of the gradient where it stopped.
    """

    l2: float
    kernel: np.ndarray
    bias: np.ndarray
    steps: int
    gradient: float


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    l2s: Sequence[float],
    num_classes: int,
    max_steps: int,
    mesh: Mesh,
) -> Iterator[Fit]:
    """Fits a classifier for each penalty, from the largest on; each starts from the one before.

    Args:
      features: [M, D] float32, of any length; the same on all processes.
      labels: [M] int; images of label -1 do not count.
      l2s: the penalties.
      num_classes: C.
      max_steps: at which the solver stops, converged or not.
      mesh: the devices.

    Yields:
      The classifiers.
    """
    own = -(-len(features) // num_shards(mesh))
    chunk = min(max(_MAX_ENTRIES // num_classes, 1), own)
    rows = -(-own // chunk) * chunk
    data = {
        "features": shard(features, mesh, rows),
        "labels": shard(np.asarray(labels, np.int32), mesh, rows, fill=-1),
    }
    layout = batch_sharding(mesh), replicated(mesh)
    data, center = jax.jit(_centred, donate_argnums=0, out_shardings=layout)(data)
    center = jax.device_get(center)
    width = features.shape[1]
    params = {
        "kernel": np.zeros((width, num_classes), np.float32),
        "bias": np.zeros(num_classes, np.float32),
    }
    params = jax.device_put(params, replicated(mesh))
    solve = _solver(mesh, chunk, max_steps)
    for l2 in sorted(l2s, reverse=True):
        params, steps, gradient = solve(params, data, l2)
        kernel, bias = (jax.device_get(params[name]) for name in ("kernel", "bias"))
        yield Fit(l2, kernel, bias - center @ kernel, int(steps), float(gradient))


def predict(fitted: Fit, features: np.ndarray, ranked: int = 5) -> np.ndarray:
    """Ranks the classes of images, best first.

    Args:
      fitted: the classifier.
      features: [Q, D] float32, of any length.
      ranked: how many classes are kept.

    Returns:
      [Q, min(ranked, C)] int32.
    """
    return _in_chunks(fitted, features, _rank, min(ranked, len(fitted.bias)))


def scores(fitted: Fit, features: np.ndarray) -> np.ndarray:
    """Returns the logits of the classes of images, [Q, C] float32; args as of `predict`."""
    return _in_chunks(fitted, features, _logits)


def _in_chunks(fitted: Fit, features: np.ndarray, function: Callable, *args: int) -> np.ndarray:
    most = max(_MAX_ENTRIES // max(len(fitted.bias), features.shape[1]), 1)
    parts = [
        np.asarray(function(fitted.kernel, fitted.bias, part, *args))[:number]
        for _, number, part in chunks(features, min(most, len(features)))
    ]
    return np.concatenate(parts)


@jax.jit
def _logits(kernel: Array, bias: Array, features: Array) -> Array:
    return jnp.matmul(unit(features), kernel, precision="highest") + bias


@functools.partial(jax.jit, static_argnums=3)
def _rank(kernel: Array, bias: Array, features: Array, number: int) -> Array:
    return jax.lax.top_k(_logits(kernel, bias, features), number)[1]


def _centred(data: dict[str, Array]) -> tuple[dict[str, Array], Array]:
    """Scales the features to length 1 and subtracts their mean [D], which is returned, too."""
    valid = (data["labels"] >= 0)[:, None]
    features = unit(data["features"])
    center = jnp.sum(features * valid, axis=0) / valid.sum()
    return data | {"features": (features - center) * valid}, center


@functools.lru_cache(maxsize=8)
def _solver(mesh: Mesh, chunk: int, max_steps: int):
    """Returns the function of (start, data, l2) to (params, steps, largest gradient entry)."""

    def sums(params, data):
        """Returns the summed cross-entropy of a device's images, and how many they are."""

        @jax.checkpoint  # the gradient forms a chunk's logits anew, or all would have to be kept
        def add(total, part):
            features, labels = part
            logits = jnp.matmul(features, params["kernel"], precision="highest") + params["bias"]
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return total + jnp.sum(jnp.where(labels >= 0, losses, 0), dtype=total.dtype), None

        parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), data)
        total, _ = jax.lax.scan(add, jnp.float32(0), (parts["features"], parts["labels"]))
        return total, jnp.sum(data["labels"] >= 0)

    def solve(start, data, l2):
        def objective(params):
            total, number = summed(sums, mesh)(params, data)
            return total / number + l2 / 2 * jnp.sum(params["kernel"] ** 2)

        solver = optax.lbfgs(memory_size=_MEMORY)
        value_and_grad = optax.value_and_grad_from_state(objective)

        def largest(state):
            return optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)

        def unfinished(carry):
            _, state, steps = carry
            return (steps == 0) | ((steps < max_steps) & (largest(state) > _TOLERANCE))

        def step(carry):
            params, state, steps = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = solver.update(
                grad, state, params, value=value, grad=grad, value_fn=objective
            )
            return optax.apply_updates(params, updates), state, steps + 1

        params, state, steps = jax.lax.while_loop(
            unfinished, step, (start, solver.init(start), jnp.int32(0))
        )
        return params, steps, largest(state)

    return jax.jit(solve, out_shardings=replicated(mesh))
