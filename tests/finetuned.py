"""The folder of a fine-tuning, as a run of it would leave it."""

import json

import jax
import jax.numpy as jnp
from runs import DATA
from tiny import tiny_config

from ibot_jax.config.flat import as_json, flatten
from ibot_jax.finetune.config import get_config
from ibot_jax.finetune.run import _PARTS
from ibot_jax.finetune.step import FinetuneState
from ibot_jax.models.build import build_backbone
from ibot_jax.models.classifier import Classifier
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.checkpoint import Checkpoints
from ibot_jax.weights.finetuned import write_model
from ibot_jax.weights.history import record_start

NAMES = ["cat", "dog", "owl"]
FLAGS = {"source": "absent", "weights": "teacher", "step": "latest", "size": [16, 16]}


def make_finetuned(folder, *, projection=0, described=True, **flags):
    """Writes what a fine-tuning leaves; returns its parameters."""
    config = tiny_config()
    module = Classifier(
        backbone=build_backbone(config.model, config.data.global_size, config.dtype),
        num_classes=3,
        projection_dim=projection,
        act="gelu",
        init_std=1.0,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
    )
    layout = replicated(make_mesh())
    params = jax.jit(module.init, out_shardings=layout)(
        jax.random.key(0), jnp.zeros((1, 16, 16, 3))
    )["params"]
    one = jax.device_put(jnp.ones((), jnp.int32), layout)
    state = FinetuneState(step=one * 4, params=dict(params), opt_state={"x": one}, finite=one > 0)
    recipe = flatten(get_config()) | {f"flags.{key}": x for key, x in (FLAGS | flags).items()}
    recipe["start"] = "projection" if projection else "backbone"
    folder.mkdir()
    record_start(folder, json.loads(json.dumps(recipe)), DATA, 0)
    checkpoints = Checkpoints(folder, keep=1, parts=_PARTS)
    checkpoints.save(state, test_top1=75.0)
    checkpoints.close()
    if described:
        classifier = {"classes": 3, "names": NAMES, "projection": projection}
        write_model(folder, as_json(config), classifier, None)
    return module, jax.device_get(dict(params))


def expected_logits(module, params, images):
    config = tiny_config()
    normalized = (images / 255.0 - config.data.mean) / config.data.std
    with jax.default_matmul_precision("highest"):
        return module.apply({"params": params}, jnp.asarray(normalized, jnp.float32))
