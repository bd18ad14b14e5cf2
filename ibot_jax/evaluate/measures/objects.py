"""An object found without labels, by the likeness of the patches of one image: LOST and TokenCut.

Shape letters: h and w patches, D features. A box of patches is (top, left, bottom, right), rows and
columns, the last two behind the object.
"""

import numpy as np
from scipy import ndimage
from scipy.sparse.linalg import eigsh

from ibot_jax.errors import UserError

Box = tuple[int, int, int, int]

_WEAK = 1e-5  # what joins patches that are not alike, so that the graph is one


def lost(features: np.ndarray, *, patches: int = 100) -> Box:
    """Finds an object as LOST does (Simeoni et al., arXiv 2109.14279, section 3).

    Patches are alike where their product is above 0. The seed is like the fewest others; the
    object is what is like the sum of those that are like the seed, among the `patches` that are
    like the fewest; of that, what hangs together with the seed.

    Args:
      features: [h, w, D]; in the paper the keys of the last block.
      patches: how many may join the seed.
    """
    grid = features.shape[:2]
    rows = features.reshape(-1, features.shape[-1]).astype(np.float64)
    products = rows @ rows.T
    alike = products > 0
    np.fill_diagonal(alike, False)
    order = np.argsort(alike.sum(axis=1), kind="stable")
    seed, few = order[0], order[:patches]
    joined = few[products[seed, few] > 0]
    return _around(seed, (products[joined].sum(axis=0) > 0).reshape(grid))


def token_cut(features: np.ndarray, *, threshold: float = 0.2) -> Box:
    """Finds an object as TokenCut does (Wang et al., arXiv 2202.11539, section 3).

    Patches whose cosine is above the threshold are joined by 1, others by 1e-5. The second smallest
    eigenvector of the normalised cut tells two parts, above and below its mean; the object is that
    of its largest absolute value, as far as it hangs together with that patch.

    Args:
      features: [h, w, D]; in the paper the keys of the last block.
      threshold: tau.

    Raises:
      UserError: if there are fewer than three patches.
    """
    grid = features.shape[:2]
    rows = features.reshape(-1, features.shape[-1]).astype(np.float64)
    if len(rows) < 3:
        raise UserError(f"{grid[0]}x{grid[1]} patches are too few to be cut in two")
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    weights = np.where(rows @ rows.T > threshold, 1.0, _WEAK)
    # (D - A) y = e D y is, with z = D^(1/2) y, (1 - e) z = D^(-1/2) A D^(-1/2) z: second largest.
    scale = 1 / np.sqrt(weights.sum(axis=1))
    start = np.random.default_rng(0).normal(size=len(rows))  # the same whenever it is computed
    values, vectors = eigsh(scale[:, None] * weights * scale, k=2, which="LA", v0=start)
    vector = scale * vectors[:, np.argmin(values)]
    seed = int(np.argmax(np.abs(vector)))
    above = vector > vector.mean()
    return _around(seed, (above == above[seed]).reshape(grid))


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the IoU of a box [4], (left, top, right, bottom), with others [N, 4]."""
    corners = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(corners[1] - corners[0], 0), axis=1)
    areas = [np.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (box, others)]
    return shared / (areas[0] + areas[1] - shared)


def _around(seed: int, mask: np.ndarray) -> Box:
    """Returns the box of what hangs together with a patch, side by side, in a mask [h, w]."""
    parts, _ = ndimage.label(mask)
    rows, columns = np.nonzero(parts == parts.flat[seed])
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
