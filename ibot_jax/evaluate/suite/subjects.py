"""The models that a suite measures."""

import argparse
import collections
import dataclasses

from ibot_jax.config.section import Section
from ibot_jax.evaluate.common.results import settle
from ibot_jax.evaluate.suite import catalogue
from ibot_jax.parallel.agreement import require_same, same_end
from ibot_jax.weights.find import find
from ibot_jax.weights.hashes import backbone_hash
from ibot_jax.weights.load import load, untrained

# Whose published figures stand beside those of a ViT of 16-pixel patches, by width and depth.
_ALIKE = {(384, 12): catalogue.S, (768, 12): catalogue.B, (1024, 24): catalogue.L}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model.

    Attributes:
      label: what it is called in tables, as no other of the suite.
      flags: that name it to a task.
      sha256: of its weights.
      alike: the published model of its size, if there is one.
    """

    label: str
    flags: tuple[str, ...]
    sha256: str
    alike: str | None


def open_subjects(args: argparse.Namespace) -> list[Subject]:
    """Finds the models of --from, and which of its steps each run has now.

    Raises:
      UserError: if a place holds no model, or not the same on all processes.
    """
    sources = tuple(dict.fromkeys(args.source))
    with same_end():
        opened = [_open(source, args) for source in sources]
    require_same(" ".join(subject.sha256 for subject in opened), "--from")
    often = collections.Counter(subject.label for subject in opened)
    return [
        dataclasses.replace(subject, label=source) if often[subject.label] > 1 else subject
        for source, subject in zip(sources, opened, strict=True)
    ]


def _open(source: str, args: argparse.Namespace) -> Subject:
    own = argparse.Namespace(**vars(args) | {"source": source, "out": ""})
    settle(own)
    weights = "teacher" if args.weights == "random" else args.weights
    model, params = load(source, weights=weights, step=own.step)
    if args.weights == "random":
        model, params = untrained(model)
    place = find(source, own.step)
    label = f"{place.place.name}, step {own.step}" if place.has_checkpoints else place.place.name
    if args.weights != "teacher":
        label = f"{label}, {args.weights}"
    flags = f"--from={source}", f"--step={own.step}", f"--weights={args.weights}"
    return Subject(label, flags, backbone_hash(params), _alike(model.config.model))


def _alike(model: Section) -> str | None:
    if model.arch != "vit" or model.patch_size != 16:
        return None
    return _ALIKE.get((model.width, model.depth))
