"""Networks: the backbones and what they have in common, the heads, the classifier."""
