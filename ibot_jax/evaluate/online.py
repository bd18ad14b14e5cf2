"""What is measured of the teacher while it trains (`knn.every`).

Nothing here draws a random number or changes a state: a run is the same with and without.
"""

import contextlib
import dataclasses
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
from ibot_jax.data.pixels.decoding import Decoding
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

_PURPOSE = "an evaluation (knn.every)"

# The share of prototypes in use, by the kind of tokens.
_USED = {"class": "prototypes_used", "patch": "patch_prototypes_used"}
_NO_CENTERS = {"class": 0.0, "patch": 0.0}  # targets are balanced over a batch instead


@dataclasses.dataclass(frozen=True)
class Splits:
    """The images that a teacher is measured on.

    Attributes:
      train: the neighbours, and what the probe learns from; None where nothing is classified.
      test: what is classified; without `train`, of what else is told of a teacher.
      num_images: of `test`, that are evaluated.
      description: what is measured, on how many images, in words.
      shared_images: how many images of `test` are among those of `train`, too; known to the first
        process.
      old: other images that the teacher is measured on besides, with labels.
    """

    train: Source | TfdsStream | None
    test: Source | TfdsStream
    num_images: int
    description: str
    shared_images: int = 0
    old: "Splits | None" = None

    @property
    def sources(self) -> list[Source | TfdsStream]:
        """Those that there are."""
        own = [source for source in (self.train, self.test) if source is not None]
        return own + (self.old.sources if self.old else [])


def open_splits(
    source: Source | TfdsStream, *, data: Section, knn: Section, probe: Section
) -> Splits:
    """Opens what a teacher is measured on, so that what is wrong with it is known at once.

    Args:
      source: the training images; where they have labels, and there is a split to test on,
        `knn.train_split` and `knn.test_split` are evaluated, else they are, evenly spaced. Those of
        `knn.old_source` come besides.
      data: where images lie, and how they are read.
      knn: what is measured of the teacher, and how often.
      probe: a linear classifier, beside k-NN.

    Raises:
      UserError: if a split cannot be opened, has no labels, does not fit the other, or too few of
        its images can be read.
    """
    train, test, why_not = _open_labelled(data, knn, source)
    if train is None:
        require_readable(source, Decoding.of(data), purpose=_PURPOSE)
        splits = _without_labels(source, knn, why_not)
    else:
        keys = f"knn.train_split={knn.train_split!r}", f"knn.test_split={knn.test_split!r}"
        splits = _with_labels(train, test, keys, data, knn, probe)
    if knn.old_source:
        old = _open_old(data, knn, probe)
        description = f"{splits.description}; of old images {old.description}"
        splits = dataclasses.replace(splits, old=old, description=description)
    return dataclasses.replace(splits, description=f"{splits.description}, every {knn.every}")


class Evaluation:
    """What a teacher is worth: its features by neighbours and probe, and how collapsed it is."""

    def __init__(
        self,
        model: Model,
        splits: Splits,
        *,
        data: Section,
        knn: Section,
        probe: Section,
        watch: Watch = contextlib.nullcontext,
    ):
        """Prepares it.

        Args:
          model: the teacher.
          splits: the images.
          data: how they are read.
          knn: the settings of k-NN.
          probe: those of the linear classifier beside it.
          watch: is told of every wait for images.
        """
        self.splits = splits
        self._data, self._knn, self._probe = data, knn, probe
        self._watch = watch
        head = model.config.head
        self._prototypes = {"class": head.prototypes, "patch": head.patch_prototypes}
        self._outputs = _make_outputs(model)

    def __call__(self, networks: dict[str, Any], mesh: jax.sharding.Mesh) -> dict[str, float]:
        """Returns what was measured, by name, on every process.

        Args:
          networks: the teacher's {"backbone": ..., "head": ...}, and the "centers" {"class": [K],
            ...} of a method that has some.
          mesh: the devices.

        Returns:
          Of the test images, or of training images where there are none: `feature_rank` (RankMe of
          the class tokens); `prototypes_used` and `patch_prototypes_used`, the shares of prototypes
          that are the teacher's first choice for some class token, and for some patch token (one an
          image, at another place in each). Of test images also, in percent, `prototype_nmi`, the
          normalised mutual information of labels and the class tokens' first choices; `knn_top1`
          and `knn_top5`; `probe_top1` and `probe_top5` unless `probe.max_steps` is 0. A first
          choice is that of the teacher's logits less the centers, which are, but in a distillation,
          of its own outputs; of the logits where no kind of token has a center, and where only one
          has, nothing is told of the other. Where test images are among the neighbours, too,
          `knn_shared_images` says how many. `old_knn_top1`, ... are the same accuracies, of the
          images of `knn.old_source`.

        Raises:
          TrainingError: if too few images can be read.
        """
        splits = self.splits
        outputs, labels = self._extract(splits, splits.test, 1, networks, mesh)
        values = {"feature_rank": feature_rank(outputs["features"])}
        for kind, name in _USED.items():
            if kind in outputs:
                values[name] = share_in_use(outputs[kind], self._prototypes[kind])
        if splits.train is not None:
            if "class" in outputs:
                values["prototype_nmi"] = normalized_mutual_information(outputs["class"], labels)
            values |= self._accuracies(splits, outputs["features"], labels, networks, mesh)
        if splits.old is not None:
            outputs, labels = self._extract(splits.old, splits.old.test, 1, networks, mesh)
            old = self._accuracies(splits.old, outputs["features"], labels, networks, mesh)
            values |= {f"old_{name}": value for name, value in old.items()}
        return values

    def _extract(
        self,
        splits: Splits,
        source: Source | TfdsStream,
        at_least: int,
        networks: dict[str, Any],
        mesh: jax.sharding.Mesh,
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns what is measured of the images of one split, and their labels."""
        batches = self._batches(splits, source, mesh)
        outputs, labels = extract(self._outputs, networks, batches, mesh)
        require_read(source, len(labels), at_least)
        return outputs, labels

    def _accuracies(
        self,
        splits: Splits,
        test: np.ndarray,
        labels: np.ndarray,
        networks: dict[str, Any],
        mesh: jax.sharding.Mesh,
    ) -> dict[str, float]:
        """Returns how well neighbours and probe tell the labels of the test features."""
        knn, probe = self._knn, self._probe
        outputs, train_labels = self._extract(splits, splits.train, knn.k, networks, mesh)
        train, num_classes = outputs["features"], splits.train.num_classes
        (ranked,) = weighted_knn(
            *(train, train_labels, test),
            ks=(knn.k,),
            temperatures=(knn.temperature,),
            num_classes=num_classes,
            mesh=mesh,
        ).values()
        by_name = {"knn": ranked}
        if probe.max_steps:
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
        if splits.shared_images:
            values["knn_shared_images"] = splits.shared_images
        return values

    def _batches(
        self, splits: Splits, source: Source | TfdsStream, mesh: jax.sharding.Mesh
    ) -> Iterator[dict[str, np.ndarray]]:
        data, settings = self._data, self._knn
        batches = eval_batches(
            source,
            view_of_run(data.global_size, settings.resize),
            rows_of_process(mesh, settings.batch_size),
            Decoding.of(data),
            data.workers,
        )
        if splits.train is None:  # a stream's first ones
            batches = itertools.islice(batches, -(-splits.num_images // settings.batch_size))
        return until_told(batches, self._watch)


def _without_labels(source: Source | TfdsStream, knn: Section, why_not: str) -> Splits:
    """Returns training images alone, `knn.max_unlabelled` of them, evenly spaced."""
    number = min(len(source), knn.max_unlabelled or len(source))
    if not isinstance(source, TfdsStream) and number < len(source):
        source = Subset(source, np.arange(number) * len(source) // number)
    return Splits(None, source, number, f"rank and prototypes, {number:,} {why_not}")


def _with_labels(
    train: Source | TfdsStream,
    test: Source | TfdsStream,
    keys: tuple[str, str],
    data: Section,
    knn: Section,
    probe: Section,
) -> Splits:
    """Returns the two splits, both readable; `keys` say in warnings which these are."""
    decoding = Decoding.of(data)
    require_readable(train, decoding, knn.k, f"knn.k={knn.k}")
    require_readable(test, decoding, purpose=_PURPOSE)
    shared = _count_shared(train, test, keys)
    description = (
        f"k-NN (k = {knn.k}){' and linear probe' if probe.max_steps else ''}, {len(train):,} train "
        f"and {len(test):,} test images"
    )
    if shared:
        description += f", {shared:,} of these training images, too"
    return Splits(train, test, len(test), description, shared)


def _count_shared(
    train: Source | TfdsStream, test: Source | TfdsStream, keys: tuple[str, str]
) -> int:
    """Returns how many images of one split are among those of the other, and warns of them."""
    if not is_first():  # many processes would ask the same disk
        return 0
    shared = find_shared(train, test).count
    if shared:
        _log.warning(
            "%s of the images of %s are among those of %s, too: k-NN and probe are no measure of "
            "unknown images; choose another split",
            *(f"{shared:,}", *reversed(keys)),
        )
    return shared


def _open_labelled(
    data: Section, settings: Section, source: Source | TfdsStream
) -> tuple[Source | TfdsStream | None, Source | TfdsStream | None, str]:
    """Returns what k-NN takes its neighbours from and what it classifies, or None and why not."""
    turn_off = 'mend it, or turn evaluations off with knn.every=""'

    def options(name):
        return _options(data, settings, name) | {"key": f"knn.{name}_split"}

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
    _require_enough(train, settings.k)
    return train, test, ""


def _open_old(data: Section, knn: Section, probe: Section) -> Splits:
    """Returns the training part of `knn.old_source`, and the split of it to test on.

    Raises:
      UserError: if one of them cannot be opened, has no labels, or too few images.
    """
    spec = knn.old_source
    try:
        train = open_source(spec, "train", **_options(data, knn, "train"))
        if train.num_classes is None:
            raise UserError("has no labels: it needs a folder for each class, in train and test")
        test, _ = open_test_split(spec, AUTO, train, **_options(data, knn, "test"))
        _require_enough(train, knn.k)
    except UserError as error:
        raise UserError(f"knn.old_source={spec!r}: {error}") from error
    keys = tuple(f"{name} of knn.old_source" for name in ("its training part", "the test split"))
    return _with_labels(train, test, keys, data, knn, probe)


def _options(data: Section, knn: Section, name: str) -> dict[str, Any]:
    """Returns how one of the two splits, "train" or "test", is opened."""
    most = getattr(knn, f"max_{name}_per_class")
    return dict(data_dir=data.data_dir, max_per_class=most, channels=data.channels)


def _require_enough(train: Source | TfdsStream, k: int) -> None:
    if k > len(train):
        raise UserError(
            f"knn.k={k} is larger than the {len(train)} images of {train.name}; lower it"
        )


def _make_outputs(model: Model) -> FeatureFn:
    """Returns the function from (networks, images [B, H, W, C] uint8) to what is measured.

    That is {"features": class tokens [B, D] float32, "class": [B] int32, "patch": [B] int32}, the
    last two the prototypes that the teacher's targets favour for the class token and a patch token:
    less the centers of a method that has some; it may have none for one of them.
    """

    def outputs(networks, images):
        tokens = model.features(networks, images)
        # A patch token of each image, whose place goes round: as cheap as class tokens.
        batch, rows, columns, _ = tokens.patches.shape
        row, column = jnp.divmod(jnp.arange(batch) % (rows * columns), columns)
        patch_tokens = tokens.patches[jnp.arange(batch), row, column]
        class_logits, _ = model.logits(networks, tokens.cls)
        _, patch_logits = model.logits(networks, patch_tokens)
        logits = {"class": class_logits, "patch": patch_logits}
        chosen = {
            kind: (logits[kind] - center).argmax(axis=-1).astype(jnp.int32)
            for kind, center in networks.get("centers", _NO_CENTERS).items()
        }
        return {"features": tokens.cls.astype(jnp.float32), **chosen}

    return outputs
