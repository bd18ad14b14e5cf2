"""What `init_from` names, read: the weights that a run starts from, and of which model they are."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from ibot_jax.config.flat import Flat, flatten
from ibot_jax.errors import UserError, about_key
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.agreement import first_text, require_same, same_end
from ibot_jax.parallel.processes import is_alone, is_first
from ibot_jax.weights.checkpoints import RESTORE, complete_steps, is_checkpoint
from ibot_jax.weights.description import described_config, portable, recorded_config
from ibot_jax.weights.find import find
from ibot_jax.weights.foreign.architecture import Known
from ibot_jax.weights.foreign.files.contents import parse_object
from ibot_jax.weights.foreign.read import read_model
from ibot_jax.weights.formats import CONFIG
from ibot_jax.weights.hashes import flat_tensors, weights_hash
from ibot_jax.weights.history import config_of_step
from ibot_jax.weights.read import read_arrays, readable

_NETWORKS = ("student", "teacher")
# What of their description goes on to the cards of what they become.
_FACTS = ("weights", "step", "epoch", "license", "converted_from", "run", "args", "start")
# What the readers of other projects' files say is said there by a flag of convert, here by a key.
_FLAGS = {
    "--heads=N": "--config.model.heads=N",
    "--heads": "model.heads",
    "; --head takes it": "",
    "patches (--grid)": "patches (ibot_jax.convert --grid)",  # of positions, not of images to come
    "(--grid)": "(data.global_size)",
    "--grid=HxW": "ibot_jax.convert --grid=HxW",
    "--allow": "ibot_jax.convert --allow",
    "--norm-eps": "model.norm_eps",
    "--mean": "data.mean",
    "--std": "data.std",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Weights that a run may start from.

    Attributes:
      path: as the config has it.
      kind: in words.
      model: the config of the model that they are of, flattened; None where nothing tells it.
      params: by "student" and "teacher", or one of them, NumPy arrays; none where there is a
        `checkpoint`, which is read as the devices want it.
      centers: of the losses, by kind, where there are any.
      checkpoint: the folder of this project with "student" and "teacher"; else None.
      facts: what else is known of them and goes to the cards of what they become.
      notes: what a person should know.
      named: whether the weights say whether they are a student's or a teacher's.
    """

    path: str
    kind: str
    model: Flat | None
    params: dict[str, Params] = dataclasses.field(default_factory=dict)
    centers: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: epath.Path | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    named: bool = True

    @property
    def has_head(self) -> bool:
        """Whether there is a projection head, as this project has them, in each set."""
        return bool(self.checkpoint) or all("head" in params for params in self.params.values())

    def read(self, part: str, keys: Iterable[str]) -> Params:
        """Returns a part of the weights as NumPy arrays; both networks may be of one set of them.

        Args:
          part: "student", "teacher" or "centers".
          keys: of its dict, such as "backbone"; no more than these is read.
        """
        if self.checkpoint and part != "centers":
            with readable(self.checkpoint, RESTORE):
                return read_arrays(self.checkpoint / part, list(keys))
        tree = self.centers if part == "centers" else self.params[self.owner(part)]
        return {key: tree[key] for key in keys}

    def words(self, table: Mapping[str, str]) -> str:
        """Returns lines that say what came from where; see `record`."""
        rows = [f"  {name:<10} {text}" for name, text in table.items()]
        return "\n".join([f"weights of {self.path} ({self.kind})", *rows])

    def record(self, table: Mapping[str, str]) -> dict[str, Any]:
        """Returns what a run records of its start.

        Args:
          table: in words what came from where, by what it is.
        """
        return {"source": self.path, "kind": self.kind, "parts": dict(table), **self.facts}

    def owner(self, part: str) -> str:
        """Returns whose weights there the student or the teacher of a run starts from."""
        return part if self.checkpoint or part in self.params else next(iter(self.params))


def read_origin(flat: Flat) -> Origin:
    """Reads what `init_from` names; all processes read what the first one finds.

    Args:
      flat: the config; keys of the model may be open.

    Raises:
      UserError: if it is nothing to start from; the message names it.
    """
    path = flat["init_from"]
    found = ""
    with same_end(), about_key("init_from", path):
        if is_first():  # a run that goes on has another latest checkpoint a moment later
            found = str(_own_checkpoint(path) or "")
    folder = first_text(found)
    with same_end(), about_key("init_from", path):
        origin = _of_checkpoint(path, epath.Path(folder)) if folder else _of_file(flat)
    if not is_alone():
        require_same(_fingerprint(origin), f"init_from={path!r}")
    return origin


def _own_checkpoint(path: str) -> epath.Path | None:
    """Returns the folder of a checkpoint, the latest whole one of a run; None for other weights."""
    found = find(path)
    if found.kind == "fine-tuning":
        raise UserError(
            f"{path} is of a fine-tuning; give the workdir of a pre-training, or an "
            "export of the fine-tuned backbone"
        )
    folder = found.place / "checkpoints"
    if found.kind == "run" and (steps := complete_steps(folder)):
        centers = any((folder / str(step) / "centers").is_dir() for step in steps)
        step, _ = found.checkpoint(*_NETWORKS, *(["centers"] if centers else []))
        return folder / str(step)
    if all((found.place / name).is_dir() for name in _NETWORKS):  # as `convert` writes it
        return found.place
    if found.kind in ("run", "start"):
        raise UserError(
            f"{path} holds no checkpoint; give the workdir of a run, or one folder of "
            "its checkpoints/"
        )
    return None


def _of_checkpoint(path: str, folder: epath.Path) -> Origin:
    kind, config, centers, facts = "a converted checkpoint", None, {}, {}
    if is_checkpoint(folder):
        workdir, step = folder.parent.parent, int(folder.name)
        kind = f"a run, step {step:,}"
        if (recorded := config_of_step(workdir, step)) is not None:
            config = flatten(recorded_config(portable(recorded), str(workdir / CONFIG)))
    elif (file := folder / CONFIG).exists():
        description = parse_object(file.read_bytes(), file)
        config, facts = flatten(described_config(description, path)), _facts(description)
    if (folder / "centers").is_dir():
        with readable(folder, RESTORE):
            centers = read_arrays(folder / "centers")
    return Origin(path, kind, config, centers=centers, checkpoint=folder, facts=facts)


def _of_file(flat: Flat) -> Origin:
    path = flat["init_from"]
    known = Known() if find(path).kind == "export" else _known(flat)
    head = None if flat["init_head"] == "load" else False
    try:
        found = read_model(
            path, weights="teacher", step="latest", head=head, known=known, whole=True
        )
        params = jax.tree.map(np.asarray, found.params)
    except UserError as error:
        raise UserError(_by_keys(str(error))) from error
    return Origin(
        path,
        found.kind,
        flatten(described_config(found.description, path)),
        params,
        found.centers,
        facts=_facts(found.description),
        notes=tuple(map(_by_keys, found.notes)),
        named=found.named,
    )


def _facts(description: dict[str, Any]) -> dict[str, Any]:
    return {key: description[key] for key in _FACTS if key in description}


def _known(flat: Flat) -> Known:
    """Returns what the config says of the model, for a file that does not tell it."""
    return Known(
        heads=flat["model.heads"],
        norm_eps=flat["model.norm_eps"],
        mean=flat["data.mean"],
        std=flat["data.std"],
        size=flat["data.global_size"],
        file_first=True,
        backbone_only=True,
    )


def _by_keys(text: str) -> str:
    """Returns a text for users of a config, not of the flags of convert."""
    return functools.reduce(lambda text, flag: text.replace(*flag), _FLAGS.items(), text)


def _fingerprint(origin: Origin) -> str:
    if origin.checkpoint:
        return str(origin.checkpoint)
    return weights_hash(flat_tensors(origin.params))
