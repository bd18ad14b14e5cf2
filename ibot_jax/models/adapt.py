"""A backbone's parameters for another patch, other channels or other blocks than they are for.

For another grid of patches there is `parameters.for_size`.
"""

from collections.abc import Sequence

import numpy as np

from ibot_jax.models.parameters import Params


def with_patches(params: Params, trained: int, wanted: int) -> Params:
    """Returns a backbone's parameters for patches of another size.

    The patch embedding is resized by the pseudo-inverse of bilinear resizing (FlexiViT, Beyer et
    al. 2023, section 3.4): a larger patch then gives on a resized image the tokens that the smaller
    one gives on the image; a smaller one those that are nearest on average.

    Args:
      params: of the backbone.
      trained: side of its patches in pixels.
      wanted: of those it shall be for.
    """
    inverse = np.linalg.pinv(bilinear_matrix(trained, wanted).T)  # [wanted, trained]

    def resize(kernel: np.ndarray) -> np.ndarray:
        return np.einsum("yi,xj,ijcd->yxcd", inverse, inverse, kernel)

    return _with_kernel(params, trained, resize)


def bilinear_matrix(old: int, new: int) -> np.ndarray:
    """Returns the weights [new, old] that resize one axis, float64; every row sums to 1.

    Half-pixel centres, borders repeated, no antialiasing.
    """
    centers = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(centers[:, None] - np.arange(old)), 0)


def with_channels(params: Params, patch_size: int, shares: np.ndarray) -> Params:
    """Returns a backbone's parameters for images of other channels.

    Args:
      params: of the backbone.
      patch_size: side of its patches in pixels.
      shares: [new, old], what each new channel's filters are of the old ones'.
    """
    return _with_kernel(
        params, patch_size, lambda kernel: np.einsum("nc,yxcd->yxnd", shares, kernel)
    )


def channel_shares(entries: Sequence[int | str], channels: int) -> np.ndarray:
    """Returns what the filters of new channels are of the old ones', [new, old] float64.

    All are scaled by old over new channels that are not zero, so that the sum over channels that
    show the same stays as it was.

    Args:
      entries: of each new channel: the number of an old one, "mean" of all, or "zero".
      channels: how many old ones there are.
    """
    rows = {"mean": np.full(channels, 1 / channels), "zero": np.zeros(channels)}
    rows |= enumerate(np.eye(channels))
    shares = np.stack([rows[entry] for entry in entries])
    return shares * channels / max(np.count_nonzero(shares.any(axis=1)), 1)


def with_blocks(params: Params, numbers: Sequence[int]) -> Params:
    """Returns a Vision Transformer's parameters with some of its blocks, in this order.

    Args:
      params: of the backbone, with "blocks_0" and so on.
      numbers: of the blocks that become blocks 0, 1 and so on; one may come more than once.
    """
    others = {name: tree for name, tree in params.items() if not name.startswith("blocks_")}
    return others | {f"blocks_{new}": params[f"blocks_{old}"] for new, old in enumerate(numbers)}


def _with_kernel(params, patch_size, change):
    """Changes the kernel of the patch embedding, as [p, p, C, D], in float64."""
    proj = params["patch_embed"]["proj"]
    kernel = np.asarray(proj["kernel"])
    changed = change(kernel.reshape(patch_size, patch_size, -1, kernel.shape[1]).astype(np.float64))
    changed = changed.reshape(-1, kernel.shape[1]).astype(kernel.dtype)
    return {**params, "patch_embed": {**params["patch_embed"], "proj": {**proj, "kernel": changed}}}
