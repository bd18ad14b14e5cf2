"""What is measured of the teacher while it trains (`knn.every`).

Nothing here draws a random number or changes a state: a run is the same with and without.
"""

import contextlib
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.config.section import Section
from ibot_jax.data.draw.central import view_of_run
from ibot_jax.data.pipeline import eval_batches
from ibot_jax.data.pixels.images import Decoding
from ibot_jax.data.sources.opening import NoTestSplit, Source, Subset, open_source, open_test_split
from ibot_jax.data.sources.readable import require_readable
from ibot_jax.data.sources.shared_images import find_shared
from ibot_jax.data.sources.splits import AUTO
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.features.extract import FeatureFn, extract, require_read
from ibot_jax.evaluate.measures.monitors import (
    feature_rank,
    normalized_mutual_information,
    share_in_use,
)
from ibot_jax.evaluate.measures.neighbours import accuracy, weighted_knn
from ibot_jax.evaluate.probes.softmax_regression import fit, predict
from ibot_jax.parallel.agreement import until_told
from ibot_jax.parallel.processes import is_first
from ibot_jax.parallel.rows import rows_of_process
from ibot_jax.parallel.watchdog import Watch
from ibot_jax.weights.model import Model

_log = logging.getLogger(__name__)


# The share of prototypes in use, by the kind of tokens.
_USED = {"class": "prototypes_used", "patch": "patch_prototypes_used"}


class Evaluation:
    """What a teacher is worth: its features by neighbours and probe, and how collapsed it is.

    Attributes:
      description: what is measured, on how many images, in words.
      num_images: whose features, prototypes and accuracies are told.
      shared_images: how many of the test images are among the neighbours, too; known to the first
        process.
    """

    def __init__(
        self,
        model: Model,
        source: Source | TfdsStream,
        *,
        data: Section,
        knn: Section,
        probe: Section,
        watch: Watch = contextlib.nullcontext,
    ):
        """Opens the data, so that what is wrong with it is known at once.

        Args:
          model: the teacher.
          source: the training images; where they have labels, and there is a split to test on,
            `knn.train_split` and `knn.test_split` are evaluated, else they are, evenly spaced.
          data: where images lie, and how they are read.
          knn: what is measured of the teacher, and how often.
          probe: a linear classifier, beside k-NN.
          watch: is told of every wait for images.

        Raises:
          UserError: if a split cannot be opened, has no labels, does not fit the other, or too few
            of its images can be read.
        """
        self._data, self._knn, self._probe = data, knn, probe
        self._watch = watch
        self._outputs = _make_outputs(model)
        self._train, self._test, why_not = _open_splits(data, knn, source)
        decoding = Decoding.of(data)
        if self._train is not None:
            require_readable(self._train, decoding, knn.k, f"knn.k={knn.k}")
        require_readable(self._test or source, decoding, purpose="an evaluation (knn.every)")
        self.shared_images = 0
        if self._train is None:
            most = knn.max_unlabelled or len(source)
            self._test = source
            if not isinstance(source, TfdsStream) and most < len(source):
                self._test = Subset(source, np.arange(most) * len(source) // most)
            self._num_batches = -(-most // knn.batch_size)  # a stream's first ones
            self.num_images = min(len(source), most)
            self.description = f"rank and prototypes, {self.num_images:,} {why_not}"
        else:
            self._num_batches = None
            self.num_images = len(self._test)
            also = " and linear probe" if probe.max_steps else ""
            self.description = (
                f"k-NN (k = {knn.k}){also}, {len(self._train):,} train and "
                f"{len(self._test):,} test images"
            )
            if is_first():  # many processes would ask the same disk
                self.shared_images = find_shared(self._train, self._test).count
            if self.shared_images:
                self.description += f", {self.shared_images:,} of these training images, too"
                _log.warning(
                    "%s of the images of knn.test_split=%r are among those of knn.train_split=%r, "
                    "too: k-NN and probe are no measure of unknown images; choose another split",
                    *(f"{self.shared_images:,}", knn.test_split, knn.train_split),
                )
        self.description += f", every {knn.every}"

    @property
    def sources(self) -> list[Source | TfdsStream]:
        """What is evaluated: the neighbours, where there are any, and the others."""
        return [source for source in (self._train, self._test) if source is not None]

    def __call__(self, weights: dict[str, Any], mesh: jax.sharding.Mesh) -> dict[str, float]:
        """Returns what was measured, by name, on every process.

        Args:
          weights: the teacher's {"backbone": ..., "head": ..., "centers": {"class": [K], ...}}.
          mesh: the devices.

        Returns:
          Of the test images, or of training images where there are none: `feature_rank` (RankMe of
          the class tokens); `prototypes_used` and `patch_prototypes_used`, the shares of prototypes
          that are the teacher's first choice for some class token, and for some patch token (one an
          image, at another place in each). Of test images also, in percent, `prototype_nmi`, the
          normalised mutual information of labels and the class tokens' first choices; `knn_top1`
          and `knn_top5`; `probe_top1` and `probe_top5` unless `probe.max_steps` is 0. A first
          choice is what the losses' targets favour: the centers are subtracted. Where test images
          are among the neighbours, too, `knn_shared_images` says how many.

        Raises:
          TrainingError: if too few images can be read.
        """
        outputs, labels = extract(self._outputs, weights, self._batches(self._test, mesh), mesh)
        require_read(self._test, len(labels), 1)
        values = {
            "feature_rank": feature_rank(outputs["features"]),
            **{
                _USED[kind]: share_in_use(outputs[kind], len(center))
                for kind, center in weights["centers"].items()
            },
        }
        if self._train is None:
            return values
        batches = self._batches(self._train, mesh)
        train, train_labels = extract(self._outputs, weights, batches, mesh)
        require_read(self._train, len(train_labels), self._knn.k)
        features = train["features"], train_labels, outputs["features"]
        values["prototype_nmi"] = normalized_mutual_information(outputs["class"], labels)
        return values | self._accuracies(features, labels, mesh)

    def _accuracies(
        self,
        features: tuple[np.ndarray, np.ndarray, np.ndarray],
        labels: np.ndarray,
        mesh: jax.sharding.Mesh,
    ) -> dict[str, float]:
        knn, probe = self._knn, self._probe
        num_classes = self._train.num_classes
        (ranked,) = weighted_knn(
            *features,
            ks=(knn.k,),
            temperatures=(knn.temperature,),
            num_classes=num_classes,
            mesh=mesh,
        ).values()
        by_name = {"knn": ranked}
        if probe.max_steps:
            train, train_labels, test = features
            (fitted,) = fit(
                train,
                train_labels,
                l2s=(probe.l2,),
                num_classes=num_classes,
                max_steps=probe.max_steps,
                mesh=mesh,
            )
            by_name["probe"] = predict(fitted, test)
        values = {}
        for name, classes in by_name.items():
            values[f"{name}_top1"], values[f"{name}_top5"] = accuracy(classes, labels)
        if self.shared_images:
            values["knn_shared_images"] = self.shared_images
        return values

    def _batches(
        self, source: Source | TfdsStream, mesh: jax.sharding.Mesh
    ) -> Iterator[dict[str, np.ndarray]]:
        data, settings = self._data, self._knn
        batches = eval_batches(
            source,
            view_of_run(data.global_size, settings.resize),
            rows_of_process(mesh, settings.batch_size),
            Decoding.of(data),
            data.workers,
        )
        batches = itertools.islice(batches, self._num_batches)
        return until_told(batches, self._watch)


def _open_splits(
    data: Section, settings: Section, source: Source | TfdsStream
) -> tuple[Source | TfdsStream | None, Source | TfdsStream | None, str]:
    """Returns what k-NN takes its neighbours from and what it classifies, or None and why not."""
    turn_off = 'mend it, or turn evaluations off with knn.every=""'

    def options(name):
        return dict(
            data_dir=data.data_dir,
            max_per_class=getattr(settings, f"max_{name}_per_class"),
            channels=data.channels,
            key=f"knn.{name}_split",
        )

    if source.num_classes is None:
        if settings.test_split != AUTO:  # it is not needed, but what is named has to be there
            open_source(data.source, settings.test_split, **options("test") | {"max_per_class": 0})
        return None, None, "images without labels"
    train = open_source(data.source, settings.train_split, **options("train"))
    if train.num_classes is None:
        raise UserError(
            f"knn.train_split={settings.train_split!r} of {data.source!r} has no labels; {turn_off}"
        )
    try:
        test, _ = open_test_split(data.source, settings.test_split, train, **options("test"))
    except NoTestSplit as error:
        return None, None, f"training images; no k-NN, for {error}"
    except UserError as error:
        raise UserError(f"{error}; {turn_off}, or find another by knn.test_split=auto") from error
    if settings.k > len(train):
        raise UserError(
            f"knn.k={settings.k} is larger than the {len(train)} images of {train.name}; lower it"
        )
    return train, test, ""


def _make_outputs(model: Model) -> FeatureFn:
    """Returns the function from (weights, images [B, H, W, C] uint8) to what is measured.

    That is {"features": class tokens [B, D] float32, "class": [B] int32, "patch": [B] int32}, the
    last two the prototypes that the teacher's targets favour for the class token and a patch token,
    where the method has a center for them.
    """

    def outputs(weights, images):
        tokens = model.features(weights, images)
        # A patch token of each image, whose place goes round: as cheap as class tokens.
        batch, rows, columns, _ = tokens.patches.shape
        row, column = jnp.divmod(jnp.arange(batch) % (rows * columns), columns)
        patch_tokens = tokens.patches[jnp.arange(batch), row, column]
        class_logits, _ = model.logits(weights, tokens.cls)
        _, patch_logits = model.logits(weights, patch_tokens)
        logits = {"class": class_logits, "patch": patch_logits}
        chosen = {
            kind: (logits[kind] - center).argmax(axis=-1).astype(jnp.int32)
            for kind, center in weights["centers"].items()
        }
        return {"features": tokens.cls.astype(jnp.float32), **chosen}

    return outputs
