"""The training of a whole backbone with UperNet on top, which goes on where it was interrupted.

OUT/upernet-KEY.npz keeps parameters, statistics, optimiser and step, every thousand steps.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibot_jax.evaluate.benchmarks.segmentation_data import Split
from ibot_jax.evaluate.benchmarks.segmentation_views import Crops
from ibot_jax.evaluate.features.patch_maps import in_whole_patches
from ibot_jax.evaluate.probes import rates, segmentation_head, steps
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.finetune.optimizer import make_optimizer
from ibot_jax.kernels.linear import matmul_precision
from ibot_jax.models.block import drop_path_gains
from ibot_jax.models.build import compute_dtype, param_dtype
from ibot_jax.models.parameters import Params, for_size
from ibot_jax.models.upernet import UperNet
from ibot_jax.parallel.layouts import replicated
from ibot_jax.weights.model import Model

_NAME = "upernet"  # of the file that is kept
_AUXILIARY = 0.4  # weight of the auxiliary head's loss
_SCALES = (4, 2, 1, 0.5)  # of the maps of a plain ViT


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A backbone with UperNet on top; parameters {"backbone": ..., "upernet": ...} are passed.

    Attributes:
      model: the backbone, for images of the crops' size.
      upernet: what is on top.
      blocks: the four whose tokens it takes, counted from 0.
      normalized: whether the backbone's last norm is applied to them.
    """

    model: Model
    upernet: UperNet
    blocks: tuple[int, ...]
    normalized: bool

    @classmethod
    def of(
        cls, model: Model, crop: int, blocks: Sequence[int], classes: int, *, normalized: bool
    ) -> "Segmenter":
        """Returns that of a model for crops of so many pixels a side.

        Blocks of a plain ViT become maps of four scales. A Swin's have them; those of which the
        backbone has no norm get one, as Swins have it in mmsegmentation.
        """
        geometry, config = model.geometry, model.config.copy_and_resolve_references()
        square = crop, crop
        config.data.global_size = tuple(np.add(square, geometry.missing(square)).tolist())
        last = geometry.depth - geometry.depths[-1]  # the first block of the last stage
        own = [normalized and len(geometry.depths) > 1 and block < last for block in blocks]
        upernet = UperNet(
            num_classes=classes,
            width=geometry.width_of(blocks[-1]) if len(geometry.depths) == 1 else 512,
            scales=_SCALES if len(geometry.depths) == 1 else None,
            normalized=tuple(own),
            dtype=compute_dtype(config.dtype),
            param_dtype=param_dtype(config.dtype),
        )
        sized = dataclasses.replace(model, config=config)
        return cls(sized, upernet, tuple(blocks), normalized)

    def start(self, params: Params, trained_for: tuple[int, int], key: jax.Array) -> Any:
        """Returns parameters and statistics as they start, positions resampled once.

        Args:
          params: of the pre-trained backbone, {"backbone": ...}.
          trained_for: height and width of the images that it was trained for.
          key: of what is new.
        """
        config = self.model.config
        size = tuple(config.data.global_size)
        backbone = for_size(params["backbone"], config.model, trained_for, size)
        image = jnp.zeros((1, *size, config.data.channels), jnp.uint8)

        def init(backbone: Params) -> Any:
            maps = self._maps(backbone, image, None)
            return self.upernet.init({"params": key}, maps)

        made = jax.jit(init)(backbone)
        return {"backbone": backbone, "upernet": made["params"]}, made["batch_stats"]

    def logits(self, learned: tuple[Any, Any], images: jax.Array) -> jax.Array:
        """Returns logits [B, h, w, C] of images [B, H, W, C'] uint8."""
        params, stats = learned
        with jax.default_matmul_precision(matmul_precision(self.model.config.dtype)):
            maps = self._maps(params["backbone"], images, None)
            return self.upernet.apply({"params": params["upernet"], "batch_stats": stats}, maps)[0]

    def loss(
        self, params: Any, stats: Any, batch: dict[str, jax.Array], key: jax.Array, drop_path: float
    ) -> tuple[jax.Array, Any]:
        """Returns the loss of a batch, and the statistics with its own.

        Args:
          params: of the backbone and UperNet.
          stats: the statistics so far.
          batch: `images` [B, H, W, C'] uint8 and `labels` [B, H, W] uint8.
          key: of stochastic depth and dropout.
          drop_path: probability of skipping a branch of the last block.
        """
        gains_key, dropout_key = jax.random.split(key)
        depth, images = self.model.geometry.depth, batch["images"]
        gains = drop_path_gains(gains_key, drop_path, depth, (len(images),))
        with jax.default_matmul_precision(matmul_precision(self.model.config.dtype)):
            (found, auxiliary), changed = self.upernet.apply(
                {"params": params["upernet"], "batch_stats": stats},
                self._maps(params["backbone"], images, gains),
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            value = segmentation_head.loss(found, batch["labels"])
            value += _AUXILIARY * segmentation_head.loss(auxiliary, batch["labels"])
        return value, changed["batch_stats"]

    def _maps(
        self, backbone: Params, images: jax.Array, gains: jax.Array | None
    ) -> list[jax.Array]:
        """Returns the maps [B, h, w, D] of the blocks."""
        images = in_whole_patches(self.model, images)
        images = images.astype(compute_dtype(self.model.config.dtype))
        layers = self.model.backbone.apply(
            {"params": backbone}, images, self.blocks, self.normalized, gains, method="layers"
        )
        return [tokens.patches for tokens in layers]


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a segmenter is trained.

    Attributes:
      mesh: the devices.
      crops: how images are seen in training.
      steps: of the training.
      warmup: steps in which the learning rate rises.
      learning_rate: at its peak, of UperNet.
      schedule: how it falls, a key of `rates.RATES`.
      weight_decay: of AdamW.
      layer_decay: of the learning rate from each layer of the backbone to the one below it.
      drop_path: probability of skipping a branch of the last block.
      seed: of what is new, the order, the crops and what is left out.
    """

    mesh: jax.sharding.Mesh
    crops: Crops
    steps: int
    warmup: int
    learning_rate: float
    schedule: str
    weight_decay: float
    layer_decay: float
    drop_path: float
    seed: int


def fit(
    segmenter: Segmenter,
    setting: Setting,
    start: tuple[Any, Any],
    train: Split,
    folder: str,
    about: dict[str, Any],
) -> tuple[Any, Any]:
    """Trains a segmenter, or finishes its training.

    Args:
      segmenter: what is trained.
      setting: how.
      start: parameters and statistics, as of `Segmenter.start`.
      train: the images.
      folder: where the state is kept.
      about: all that determines the outcome; JSON types only.

    Returns:
      Parameters and statistics, on all devices.

    Raises:
      UserError: if an image cannot be read, or the state cannot be read or written.
    """
    optimizer = make_optimizer(
        lr=functools.partial(
            rates.RATES[setting.schedule],
            peak=setting.learning_rate,
            steps=setting.steps,
            warmup=setting.warmup,
        ),
        weight_decay=setting.weight_decay,
        layer_decay=setting.layer_decay,
        geometry=segmenter.model.geometry,
    )
    key = jax.random.key(setting.seed)

    @functools.partial(jax.jit, out_shardings=replicated(setting.mesh))
    def step(state, batch, number):
        (params, stats), moments = state
        grads, stats = jax.grad(segmenter.loss, has_aux=True)(
            params, stats, batch, jax.random.fold_in(key, number), setting.drop_path
        )
        updates, moments = optimizer.update(grads, moments, params, step=number)
        return (optax.apply_updates(params, updates), stats), moments

    learned, _ = steps.train(
        (start, optimizer.init(start[0])),
        step,
        functools.partial(setting.crops.from_step, train, setting.seed),
        steps=setting.steps,
        kept=Kept(folder, _NAME, about),
        mesh=setting.mesh,
        what="UperNet",
    )
    return learned


def trained(
    start: tuple[Any, Any],
    number: int,
    folder: str,
    about: dict[str, Any],
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Any]:
    """Returns what `fit` has trained in so many steps, on all devices; other arguments as there.

    Raises:
      UserError: if it has not, or not to the end.
    """
    return steps.trained(start, steps=number, kept=Kept(folder, _NAME, about), mesh=mesh)
