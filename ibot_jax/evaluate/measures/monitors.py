"""How much of what they have features and prototypes use; how well prototypes match labels.

Collapse shows here before it shows in an accuracy, and without labels.
"""

import numpy as np
import scipy.special

_BLOCK = 4096  # rows that are copied to float64 at a time


def feature_rank(features: np.ndarray) -> float:
    """Returns RankMe, the effective rank of features [M, D] (Garrido et al., ICML 2023).

    The exponential of the entropy of the singular values over their sum: 1 if all features point
    the same way, r if they fill r dimensions evenly; at most min(M, D). Features are not centered.
    """
    # The squares of the singular values are the eigenvalues of the Gram matrix: in float64, they
    # lose less than the features' own float32.
    gram = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK].astype(np.float64)
        gram += block.T @ block
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    return float(np.exp(scipy.special.entr(values / values.sum()).sum()))


def share_in_use(chosen: np.ndarray, number: int) -> float:
    """Returns the share of prototypes that some token chooses.

    Args:
      chosen: [M] int, the index of each token's likeliest prototype.
      number: of prototypes, K.
    """
    return len(np.unique(chosen)) / number


def normalized_mutual_information(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Returns how well clusters [M] tell labels [M], both int, in percent.

    The mutual information over the mean of both entropies. With few images a cluster it is high by
    chance; compare it between evaluations of the same images.
    """
    # Not scikit-learn's: a run would wait seconds for its import before the first step.
    (of_clusters, rows), (of_labels, columns) = (
        np.unique(values, return_inverse=True) for values in (clusters, labels)
    )
    joint = np.zeros((len(of_clusters), len(of_labels)))
    np.add.at(joint, (rows, columns), 1 / len(labels))
    entropies = sum(scipy.special.entr(joint.sum(axis=axis)).sum() for axis in (0, 1))
    mutual = max(entropies - scipy.special.entr(joint).sum(), 0)
    return 100 * float(2 * mutual / entropies) if entropies else 100.0
