"""Pods of TPUs that the ImageNet configs have settings for."""

from ibot_jax.config.section import Section
from ibot_jax.errors import UserError

# Chips of the pods that the ImageNet configs have settings for, `configs/vitb16.py:v5e-256`.
PODS = {"v5e-16": 16, "v5e-64": 64, "v5e-256": 256, "v4-64": 64, "v5p-64": 64, "v5p-512": 512}


def apply_pod(config: Section, pod: str) -> None:
    """Spreads the batch over the chips of a pod, one of `PODS`; "" leaves the config as it is.

    Raises:
      UserError: if there is no such pod.
    """
    if pod:
        if pod not in PODS:
            raise UserError(f"there are no settings for {pod!r}; use one of {', '.join(PODS)}")
        config.mesh.data = PODS[pod]
