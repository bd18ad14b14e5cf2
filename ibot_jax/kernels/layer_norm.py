"""What kernels know of LayerNorm."""

LAYER_NORM_EPSILON = 1e-6  # the original's, of all norms
