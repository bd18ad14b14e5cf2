"""Weighted k-NN of the original: percent of test features whose class is found.

A file holds `train` [M, D] and `test` [Q, D], unit features, `train_labels` and `test_labels`, and
`kN`, top-1 and top-5 in percent for N neighbours at temperature 0.07.
"""

import jax
import numpy as np

from ibot_jax.evaluate.measures.neighbours import accuracy, weighted_knn
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.tools.replaying.recording import Deviation, Deviations, Kind, Recording, difference

TEMPERATURE = 0.07
TOLERANCE = 1e-10


def takes(recording: Recording) -> bool:
    """Returns whether a recording is of k-NN."""
    return recording.names >= {"train", "train_labels", "test", "test_labels"}


def replay(recording: Recording) -> Deviations:
    """Measures the accuracies again, in the features' own dtype.

    Raises:
      UserError: for what is missing in the file.
    """
    ks = sorted(int(name[1:]) for name in recording.names if name[1:].isdecimal())
    if not ks:
        raise recording.problem("it has no kN, accuracies by N neighbours")
    labels = recording["train_labels"]
    classes = int(max(labels.max(), recording["test_labels"].max())) + 1
    ranked = weighted_knn(
        recording["train"],
        labels,
        recording["test"],
        ks=ks,
        temperatures=(TEMPERATURE,),
        num_classes=classes,
        mesh=make_mesh(jax.devices()[:1]),
    )
    for k in ks:
        places = _all_placed(ranked[k, TEMPERATURE], classes)
        found = np.array(accuracy(places, recording["test_labels"]))
        yield Deviation(
            f"top-1 and top-5, k = {k}", difference(found, recording[f"k{k}"]), TOLERANCE
        )


KIND = Kind("k-NN of the original", takes, replay)


def _all_placed(ranked: np.ndarray, classes: int) -> np.ndarray:
    """Puts classes without a vote behind the others, by number, as the original does."""
    rows = [[*row[row >= 0], *np.setdiff1d(np.arange(classes), row)] for row in ranked]
    return np.array([row[: ranked.shape[1]] for row in rows])
