"""The config: every key, what it means, what it takes, and what configs start from."""

from ibot_jax.config.defaults import get_config
from ibot_jax.config.flat import flatten
from ibot_jax.config.open_keys import leave_open
from ibot_jax.config.plan import Plan, make_plan
from ibot_jax.config.pods import PODS, apply_pod
from ibot_jax.config.sizes import DINOV2, DINOV3, SWIN_SIZES, VIT_SIZES

__all__ = [
    "DINOV2",
    "DINOV3",
    "PODS",
    "SWIN_SIZES",
    "VIT_SIZES",
    "Plan",
    "apply_pod",
    "flatten",
    "get_config",
    "leave_open",
    "make_plan",
]
