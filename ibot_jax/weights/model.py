"""A trained model and how it sees images.

model, params = ibot_jax.load("runs/mine")
tokens = model.features(params, images)  # of uint8 [B, H, W, 3]
tokens.cls, tokens.registers, tokens.patches  # float32 [B, D], [B, R, D], [B, h, w, D]
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import ibot_jax
from ibot_jax.config.flat import flatten
from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.errors import UserError
from ibot_jax.kernels.choice import Kernels, choose_at_hand
from ibot_jax.kernels.linear import matmul_precision
from ibot_jax.models.architectures import geometry_of, in_words
from ibot_jax.models.build import Backbone, build_backbone, build_head, compute_dtype
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.head import Head
from ibot_jax.models.parameters import Params
from ibot_jax.models.pixels import normalize, standardize
from ibot_jax.models.tokens import Attention, Tokens
from ibot_jax.weights.description import describe
from ibot_jax.weights.finetuned import build_classifier
from ibot_jax.weights.sanity import check_images


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A backbone and how it sees images; parameters are passed to each call.

    Images are [B, H, W, C] and whole patches in height and width (`geometry.whole`), of the
    training's size or another. uint8 are pixels from 0 to 255. Floating ones have to say what they
    are: `floats="unit"` are pixels from 0 to 1, `floats="normalized"` those less the mean of each
    channel, over its standard deviation (`config.data.mean`, `config.data.std`). Other dtypes,
    shapes and sizes are a UserError. All methods are pure and may be jitted.

    Attributes:
      config: of a run, of which the sections `model`, `head` and `data` describe the model.
      name: where it is from, for people.
      facts: what else is known of it: `weights` ("teacher" or "student"), `step`, `knn_top1`.
      history: how the weights came about, for model cards: `run`, the config of the run, ...
      described_view: how evaluations see images, where that does not follow from the config.
      kernels: that may compute the backbone; None for those here of `config.model.kernels`.
      classifier: of a fine-tuned model, {"classes": C, "names": by class or None, ...}; else None.
    """

    config: ConfigDict
    name: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: dict[str, Any] = dataclasses.field(default_factory=dict)
    described_view: CentralView | None = None
    classifier: dict[str, Any] | None = None
    kernels: Kernels | None = None

    @property
    def view(self) -> CentralView:
        """How evaluations see images, unless told otherwise."""
        config = self.config
        return self.described_view or view_of_run(config.data.global_size, config.knn.resize)

    def __repr__(self) -> str:
        """Returns one line; the whole config is `config`."""
        size = "x".join(map(str, self.config.data.global_size))
        facts = (f"{key}={self.facts[key]}" for key in ("weights", "step") if key in self.facts)
        return (
            f"Model({', '.join([self.name, *facts])}: {in_words(self.config.model)}, for {size} "
            "images)"
        )

    @property
    def trained_on(self) -> str:
        """The `data.source` of the run that the weights are from; "" if that is not known."""
        return self.history.get("run", {}).get("data.source", "")

    def description(self, *, head: bool) -> dict[str, Any]:
        """Returns what an export says of it, and of its head by option; see `describe`."""
        config, classifier = flatten(self.config), {}
        if self.classifier is None:  # loaded for another dtype, maybe
            config["dtype"] = self.history.get("run", {}).get("dtype", self.config.dtype)
        elif head:
            classifier = {"classifier": self.classifier}
        described = describe(config, head=head and self.classifier is None, view=self.view)
        facts = self.facts | self.history | classifier
        return described | facts | {"ibot_jax": ibot_jax.__version__}

    @functools.cached_property
    def geometry(self) -> Geometry:
        """The shape of the backbone in plain numbers."""
        return geometry_of(self.config.model)

    @functools.cached_property
    def backbone(self) -> Backbone:
        """The Linen module of the backbone, for `params["backbone"]`."""
        kernels = self.kernels
        if kernels is None:
            kernels = choose_at_hand(self.config.model.kernels)
        config = self.config
        return build_backbone(config.model, config.data.global_size, config.dtype, kernels)

    @functools.cached_property
    def head(self) -> Head:
        """The Linen module of the projection head, for `params["head"]`, where that is there."""
        if self.classifier is not None:
            raise UserError(
                f"{self.name} is fine-tuned: it has a classifier and no projection head; give the "
                "pre-training"
            )
        return build_head(
            self.config.head, self.config.dtype, teacher=self.facts.get("weights") != "student"
        )

    def features(self, params: Params, images: jax.Array, *, floats: str | None = None) -> Tokens:
        """Returns the normalised output tokens by name, float32.

        Args:
          params: {"backbone": ...}.
          images: [B, H, W, C]: uint8, pixels from 0 to 255; or floating, see `floats`.
          floats: "unit" or "normalized", what floating images are; see the class.

        Raises:
          UserError: for images of another dtype, shape or size.
        """
        return self._apply(params, images, floats=floats)

    def layers(
        self,
        params: Params,
        images: jax.Array,
        wanted: Sequence[int],
        *,
        normalized: bool = True,
        floats: str | None = None,
    ) -> tuple[Tokens, ...]:
        """Returns the tokens of the wanted blocks, which count from 0 over all stages, float32.

        They are normalised as the backbone normalises them, all of a ViT's by the last norm; or
        not `normalized`, as they leave their blocks. Images and errors as of `features`.
        """
        wanted = tuple(wanted)
        return self._apply(params, images, wanted, normalized, floats=floats, method="layers")

    def attention(
        self, params: Params, images: jax.Array, *, floats: str | None = None
    ) -> Attention:
        """Returns the attention weights of the last block, and the keys of its patches, float32.

        Images and errors as of `features`.
        """
        return self._apply(params, images, floats=floats, method="attention")

    def tokens(self, params: Params, images: jax.Array, *, floats: str | None = None) -> jax.Array:
        """Returns `features` as one array [B, T, D]: class token, registers, patches row by row.

        Images and errors as of `features`. Of a ViT without registers T is 1 + N, with N patches.
        """
        return self.features(params, images, floats=floats).sequence

    def last_layers(
        self, params: Params, images: jax.Array, n: int, *, floats: str | None = None
    ) -> jax.Array:
        """Returns `layers` of the last n blocks as one array [n, B, T, D], see `tokens`.

        Images and errors as of `features`; the blocks must be of one width.
        """
        layers = self.layers(params, images, self.geometry.last_blocks(n), floats=floats)
        return jnp.stack([layer.sequence for layer in layers])

    def last_attention(
        self, params: Params, images: jax.Array, *, floats: str | None = None
    ) -> jax.Array:
        """Returns the weights of `attention` alone, of a ViT [B, heads, T, T], see `tokens`.

        Images and errors as of `features`.
        """
        return self.attention(params, images, floats=floats).weights

    def whole_patches(self, images: jax.Array) -> jax.Array:
        """Returns images [B, H, W, C] without last rows and columns that do not fill a patch."""
        height, width = self.geometry.whole((images.shape[1], images.shape[2]))
        return images[:, :height, :width]

    def class_logits(
        self, params: Params, images: jax.Array, *, floats: str | None = None
    ) -> jax.Array:
        """Returns what the classifier of a fine-tuned model says, [B, C] float32.

        Images and errors as of `features`; `params` as `load` gives them with `head=True`.
        """
        if self.classifier is None or "classifier" not in params:
            raise UserError(f"{self.name} has no classifier; load a fine-tuned model with its head")
        module = build_classifier(self.config, self.classifier)
        return self._apply(params, images, floats=floats, module=module)

    def logits(self, params: Params, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the class and the patch logits of tokens [..., D], each [..., K] float32."""
        with jax.default_matmul_precision(matmul_precision(self.config.dtype)):
            logits: Any = self.head.apply({"params": params["head"]}, tokens)
        return logits

    def _apply(
        self,
        params: Params,
        images: jax.Array,
        *args: Any,
        floats: str | None,
        method: str | None = None,
        module: Any = None,
    ) -> Any:
        data = self.config.data
        if not isinstance(images, np.ndarray | jax.Array):
            images = np.asarray(images)
        check_images(images, floats, data.channels, self.geometry)
        images = jnp.asarray(images)
        if floats == "unit" and images.dtype != jnp.uint8:
            images = standardize(images, data.mean, data.std)
        images = normalize(images, data.mean, data.std, compute_dtype(self.config.dtype))
        if module is None:
            module, params = self.backbone, params["backbone"]
        with jax.default_matmul_precision(matmul_precision(self.config.dtype)):
            outputs = module.apply({"params": params}, images, *args, method=method)
        return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), outputs)
