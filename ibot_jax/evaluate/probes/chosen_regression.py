"""Logistic regression whose penalty is chosen on held-out images, as transfer is measured.

The protocol of Kornblith et al. (arXiv 1805.08974), SimCLR and DINOv2: of 45 penalties the one that
does best on the held-out images; with it, a classifier of all training images. As scikit-learn
counts it, C is the weight of the summed cross-entropy beside half of the squared norm of the
weights. Where images show several classes, each class has a classifier of its own, one against the
rest.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from ibot_jax.evaluate.probes.softmax_regression import fit, scores
from ibot_jax.screen.progress import progress

# Published of features as they come; those of length 1 need larger ones, see `fit_chosen`.
STRENGTHS = tuple(float(strength) for strength in 10 ** np.linspace(-6, 5, 45))


def fit_chosen(
    features: np.ndarray,
    targets: np.ndarray,
    held_out: np.ndarray,
    queries: np.ndarray,
    *,
    num_classes: int,
    measure: Callable[[np.ndarray, np.ndarray], float],
    mesh: Mesh,
    strengths: Sequence[float] = STRENGTHS,
    max_steps: int = 1000,
    what: str = "penalties",
) -> tuple[np.ndarray, float]:
    """Chooses C on held-out images, fits a classifier with it to all, and scores images.

    Args:
      features: [M, D] float32, as they come; the same on all processes.
      targets: [M] int, classes; or [M, C], 1 for classes that an image shows, 0 for others, and -1
        where it does not count for the class.
      held_out: [M] bool, the images that C is chosen on.
      queries: [Q, D] float32, features to be scored.
      num_classes: of them.
      measure: of scores and targets, the larger the better; of equal ones the smallest C counts.
      mesh: the devices.
      strengths: the Cs to choose from.
      max_steps: of the solver, for each.
      what: it is for, in words.

    Returns:
      [Q, C] float32 scores, and the C that was chosen.
    """
    strengths = sorted(strengths)
    # The solver scales features to length 1, for which the same penalty weighs more.
    square = float(np.mean(np.einsum("md,md->m", features, features)))

    def scored(chosen, few, images):
        penalties = [1 / (strength * square * chosen.sum()) for strength in few]
        options = dict(num_classes=num_classes, max_steps=max_steps, mesh=mesh, what=what)
        return _scores(features[chosen], targets[chosen], images, penalties, **options)

    found = scored(~held_out, strengths, features[held_out])
    measured = [measure(each, targets[held_out]) for each in progress(found, len(strengths), what)]
    best = strengths[int(np.argmax(measured))]
    (of_all,) = scored(np.ones(len(features), bool), [best], queries)
    return of_all, best


def _scores(
    features: np.ndarray,
    targets: np.ndarray,
    queries: np.ndarray,
    penalties: Sequence[float],
    *,
    num_classes: int,
    max_steps: int,
    mesh: Mesh,
    what: str,
) -> Iterator[np.ndarray]:
    """Yields scores [Q, C] for each penalty, from the largest on."""
    options = dict(max_steps=max_steps, mesh=mesh)
    if targets.ndim == 1:
        fits = fit(features, targets, l2s=penalties, num_classes=num_classes, **options)
        yield from (scores(fitted, queries) for fitted in progress(fits, len(penalties), what))
        return
    columns = []
    for of_class in progress(targets.T, num_classes, what):
        # Two columns of weights that differ by w have half the squared norm of w.
        l2s = [2 * penalty for penalty in penalties]
        both = [
            scores(fitted, queries)
            for fitted in fit(features, of_class, l2s=l2s, num_classes=2, **options)
        ]
        columns.append([each[:, 1] - each[:, 0] for each in both])
    yield from np.moveaxis(np.array(columns), 0, -1)
