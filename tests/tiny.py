"""A model and batches small enough to run a whole step in tests."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ibot_jax import config as configs
from ibot_jax.models.architectures import geometry_of


def tiny_config(**overrides) -> ConfigDict:
    """Returns a config with a two-block model on 16-pixel views; keys of overrides use "__"."""
    config = configs.get_config()
    config.dtype = "float32"
    config.batch_size = 8
    config.duration = "4 epochs"
    config.model.update(width=16, depth=2, heads=2, patch_size=4, drop_path=0.0)
    config.head.update(hidden_dim=24, bottleneck_dim=8, prototypes=12, patch_prototypes=12)
    config.loss.teacher_temp_warmup = "2 epochs"
    config.optim.warmup = "1 epochs"
    config.optim.lr = 0.05
    config.data.update(source="synthetic", global_size=(16, 16), local_size=(8, 8), local_views=2)
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return config


# Of `tiny_config`, as overrides: a Swin of two stages, whose windows shift and grids pad.
TINY_SWIN = dict(
    model__arch="swin",
    model__depth=12,  # the default, as of a key that a Swin has not
    model__heads=6,
    model__patch_size=2,
    model__stage_depths=(2, 1),
    model__stage_heads=(2, 4),
    model__window=3,
)


def tiny_plan(config: ConfigDict, steps_per_epoch: int = 2) -> configs.Plan:
    """Returns the plan of a run over `steps_per_epoch` batches of data."""
    return configs.make_plan(config, steps_per_epoch * config.batch_size)


def tiny_batch(config: ConfigDict, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random uint8 views and masks within the config's ratios."""
    rng = np.random.default_rng(seed)
    data, size = config.data, config.batch_size
    height, width = geometry_of(config.model).grid(data.global_size)

    def views(number, shape):
        return rng.integers(0, 256, (size, number, *shape, data.channels), dtype=np.uint8)

    order = rng.random((size, data.global_views, height * width)).argsort(axis=-1)
    counts = rng.integers(0, height * width // 2 + 1, (size, data.global_views, 1))
    return {
        "global_views": views(data.global_views, data.global_size),
        "local_views": views(data.local_views, data.local_size),
        "masks": (order < counts).reshape(size, data.global_views, height, width),
    }


def normalized(config: ConfigDict, views: np.ndarray) -> jnp.ndarray:
    """Returns views as the models see them."""
    return jnp.array((views / 255 - config.data.mean) / config.data.std, jnp.float32)


def example_settings(config: ConfigDict) -> dict:
    """What `MakeExample` takes of a config."""
    grid = geometry_of(config.model).grid(config.data.global_size)
    return dict(seed=config.seed, data=config.data, masks=config.masks, grid=grid)


def pipeline_settings(config: ConfigDict) -> dict:
    """What `train_batches` takes of a config."""
    sections = dict(data=config.data, masks=config.masks, high_res=config.high_res)
    return dict(seed=config.seed, geometry=geometry_of(config.model), **sections)
