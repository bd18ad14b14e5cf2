"""What the section `masks` says of how much is masked."""

import math

from ibot_jax.config.section import Section

# Kinds whose masks are dealt out over a batch; in the others each view draws for itself.
DEALT = ("dinov2", "dinov3")


def masked_share(masks: Section) -> tuple[float, float]:
    """Returns mean and standard deviation of the share of a global view that is masked.

    Each view draws one of the ratios, plus uniform noise within that entry's variance; or, of a
    kind that is dealt out, `masks.share` of the views have a ratio, uniform in `masks.range`.

    Args:
      masks: the section of a config.
    """
    if masks.kind in DEALT:
        low, high = masks.range
        mean = masks.share * (low + high) / 2
        square = masks.share * (low**2 + low * high + high**2) / 3
    else:
        pairs = list(zip(masks.ratios, masks.variances, strict=True))
        mean = sum(ratio for ratio, _ in pairs) / len(pairs)
        # Of a uniform entry, and of uniform noise of half-width v.
        square = sum(ratio**2 + v**2 / 3 for ratio, v in pairs) / len(pairs)
    return mean, math.sqrt(max(square - mean**2, 0))
