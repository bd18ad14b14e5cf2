"""The config: every key, what it means, what it takes, and what configs start from."""

from ibot_jax.config.plan import PODS, VIT_SIZES, apply_pod, get_config

__all__ = ["PODS", "VIT_SIZES", "apply_pod", "get_config"]
