"""Evaluations as a run makes them."""

from ml_collections import ConfigDict

from ibot_jax.evaluate.online import Evaluation, open_splits
from ibot_jax.weights.model import Model


def evaluation_of(config: ConfigDict, source) -> Evaluation:
    """What the run of a config measures of its teacher."""
    sections = dict(data=config.data, knn=config.knn, probe=config.probe)
    return Evaluation(Model(config, "teacher"), open_splits(source, **sections), **sections)
