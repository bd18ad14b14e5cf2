"""What the device does to a batch of labelled images: boxes of noise, mixup, CutMix, soft labels.

All is drawn image by image, so that nothing depends on how a batch is spread over devices.
"""

import math

import jax
import jax.numpy as jnp

Array = jax.Array

ERASE_TRIES = 10
ERASE_AREA = (0.02, 1 / 3)  # of the image
ERASE_ASPECT = (0.3, 1 / 0.3)  # height over width


def random_erase(rng: Array, images: Array, probability: float) -> Array:
    """Fills a box of some images with noise (Zhong et al., "Random erasing", 2020).

    Args:
      rng: key.
      images: [B, H, W, C] floating, normalised.
      probability: of a box; its area is uniform and its aspect ratio log-uniform. Where none of ten
        boxes fits, none is filled.

    Returns:
      The images; pixels in a box are normal with mean 0 and standard deviation 1.
    """
    batch, height, width, _ = images.shape
    wanted, area, aspect, place, noise = jax.random.split(rng, 5)
    shape = (batch, ERASE_TRIES)
    areas = (
        height * width * jax.random.uniform(area, shape, minval=ERASE_AREA[0], maxval=ERASE_AREA[1])
    )
    low, high = map(math.log, ERASE_ASPECT)
    ratios = jnp.exp(jax.random.uniform(aspect, shape, minval=low, maxval=high))
    sides = jnp.round(jnp.stack([jnp.sqrt(areas * ratios), jnp.sqrt(areas / ratios)], axis=-1))
    limits = jnp.array([height, width])
    fits = (sides < limits).all(axis=-1)  # [B, tries]
    first = jnp.argmax(fits, axis=1)
    sides = jnp.take_along_axis(sides, first[:, None, None], axis=1)[:, 0]  # [B, 2]
    # Uniform over the places where the box lies inside, both ends included.
    starts = jnp.floor(jax.random.uniform(place, (batch, 2)) * (limits - sides + 1))
    chosen = (jax.random.uniform(wanted, (batch,)) < probability) & fits.any(axis=1)
    inside = _box(starts, starts + sides, height, width) & chosen[:, None, None]
    return jnp.where(
        inside[..., None], jax.random.normal(noise, images.shape, images.dtype), images
    )


def draw_weights(
    rng: Array, shape: tuple[int, int, int], *, mixup: float, cutmix: float, cutmix_share: float
) -> Array:
    """Draws how much of each pixel stays when images are mixed; one of the two must be on.

    Mixup (Zhang et al., 2018) keeps the same share of all pixels, CutMix (Yun et al., 2019) all of
    those outside a box and none inside.

    Args:
      rng: key.
      shape: (B, H, W).
      mixup: x of the Beta(x, x) from which shares are drawn; 0 turns mixup off.
      cutmix: the same for the share of the box that is kept out; 0 turns CutMix off.
      cutmix_share: probability of CutMix where both are on.

    Returns:
      [B, H, W] float32 in [0, 1].
    """
    batch, height, width = shape
    which, share_rng, place = jax.random.split(rng, 3)
    boxes = jax.random.uniform(which, (batch,)) < (cutmix_share if mixup and cutmix else cutmix > 0)
    concentration = jnp.where(boxes, cutmix, mixup)
    kept = jax.random.beta(share_rng, concentration, concentration)  # [B]
    limits = jnp.array([height, width])
    halves = jnp.floor(limits * jnp.sqrt(1 - kept)[:, None]) // 2
    centres = jnp.floor(jax.random.uniform(place, (batch, 2)) * limits)
    outside = ~_box(centres - halves, centres + halves, height, width)
    return jnp.where(boxes[:, None, None], outside, kept[:, None, None])


def mix(images: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Mixes each image with its neighbour, rows 0 and 1, 2 and 3, ...; labels by the pixels' share.

    Args:
      images: [B, H, W, C] floating; B is even.
      targets: [B, K], a distribution over classes for each image.
      weights: [B, H, W], the share of the image itself in each pixel; the neighbour has the rest.

    Returns:
      Images and targets, mixed.
    """
    own = weights[..., None].astype(images.dtype)
    share = weights.mean(axis=(1, 2))[:, None].astype(targets.dtype)
    return (
        own * images + (1 - own) * _neighbours(images),
        share * targets + (1 - share) * _neighbours(targets),
    )


def soft_labels(labels: Array, num_classes: int, smoothing: float) -> Array:
    """Returns [B, K] float32: 1 - smoothing on the label [B], the rest spread over all classes."""
    return (1 - smoothing) * jax.nn.one_hot(labels, num_classes) + smoothing / num_classes


def _neighbours(x: Array) -> Array:
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def _box(starts: Array, ends: Array, height: int, width: int) -> Array:
    """Returns [B, H, W] bool, True in the boxes from `starts` up to `ends`, [B, 2] each."""
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    top, left = (side[:, None, None] for side in starts.T)
    bottom, right = (side[:, None, None] for side in ends.T)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
