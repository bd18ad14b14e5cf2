"""Classifiers of frozen features that are fitted once and asked about many images.

Each is a function of features [N, D] float32, and of which classes may be answered, [C] bool, that
returns the class of each, [N] int.
"""

import dataclasses

import jax
import numpy as np

from ibot_jax.errors import UserError
from ibot_jax.evaluate.features.cache import Features
from ibot_jax.evaluate.measures.neighbours import weighted_knn
from ibot_jax.evaluate.probes.softmax_regression import Fit, scores


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Weighted k-NN.

    Attributes:
      bank: the features of the training split.
      num_classes: C.
      k: how many neighbours vote, or all if they are fewer.
      temperature: of their votes.
      mesh: the devices.
    """

    bank: Features
    num_classes: int
    k: int
    temperature: float
    mesh: jax.sharding.Mesh

    def __call__(self, features: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Returns the classes of features; raises a UserError if no training image may vote."""
        voters = slice(None)
        if not allowed.all():
            voters = np.flatnonzero(np.isin(self.bank.labels, np.flatnonzero(allowed)))
        train_features, train_labels = self.bank.values[voters], self.bank.labels[voters]
        if not len(train_labels):
            raise UserError("none of the training images of these classes can be read")
        ranked = weighted_knn(
            train_features,
            train_labels,
            features,
            ks=(min(self.k, len(train_labels)),),
            temperatures=(self.temperature,),
            num_classes=self.num_classes,
            mesh=self.mesh,
        )
        (classes,) = ranked.values()
        return classes[:, 0]


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear classifier.

    Attributes:
      fitted: to the training split.
    """

    fitted: Fit

    def __call__(self, features: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Returns the classes of features."""
        return np.where(allowed, scores(self.fitted, features), -np.inf).argmax(axis=1)
