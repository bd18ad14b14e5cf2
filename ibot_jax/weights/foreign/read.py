"""Reads models from wherever they are: this project's runs and exports, other projects' files."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from etils import epath

import ibot_jax
from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params
from ibot_jax.weights.description import describe, described_view
from ibot_jax.weights.find import find
from ibot_jax.weights.foreign.accounting import NO_MASK_TOKEN
from ibot_jax.weights.foreign.architecture import Known
from ibot_jax.weights.foreign.convert import Taken, read_tensor, take
from ibot_jax.weights.foreign.files.contents import Contents
from ibot_jax.weights.foreign.files.reader import read_contents
from ibot_jax.weights.formats import (
    SETS,
)
from ibot_jax.weights.hub import is_on_hub
from ibot_jax.weights.load import load


@dataclasses.dataclass(frozen=True)
class Found:
    """A model, read.

    Attributes:
      kind: where it was, for people.
      description: as `description.describe`, and what else is known.
      params: by "teacher" and "student", as many as were wanted; NumPy arrays, or `Deferred`.
      centers: of the losses, {"class": [K], "patch": [K]}, where they are in the file.
      notes: what a person should know.
      named: whether it is told whether they are a student's or a teacher's.
    """

    kind: str
    description: dict[str, Any]
    params: dict[str, Params]
    centers: dict[str, np.ndarray]
    notes: tuple[str, ...]
    named: bool = True


def read_model(
    path: str,
    *,
    weights: str,
    step: str,
    head: bool | None,
    known: Known,
    whole: bool = False,
    classifier: bool = False,
) -> Found:
    """Reads a model of any kind.

    Args:
      path: of a run, a checkpoint, an export, or of a file or folder of another project, on a
        disk or on the hub.
      weights: "teacher" or "student", of what holds both.
      step: "latest", "best" or a number, of a run.
      head: whether the projection head comes too; None where there is one.
      known: what the user says of another project's model.
      whole: whether student, teacher and centers are wanted, as far as there are any.
      classifier: whether the head of a fine-tuned model, its classifier, will do.

    Raises:
      UserError: if there is no such model, or it cannot be converted whole.
    """
    source = find(path, step)
    if source.kind != "foreign":
        if whole and source.kind in ("run", "start"):
            raise UserError(f"{path} needs no conversion: --config.init_from={path} takes it")
        if known != Known():
            raise UserError(
                f"{path} says all of its model; leave out --heads, --norm-eps, --grid, "
                "--mean, --std, --allow"
            )
        kind = f"{source.kind} of ibot_jax"
        found = _read_own(path, kind, weights=weights, step=step, head=head)
        if "classifier" in found.description and not classifier:
            raise UserError(
                f"{path} is fine-tuned and has no projection head; give the pre-training, or "
                "export it: ibot_jax.export --head takes its classifier along"
            )
        return found
    contents = read_contents(source.place)
    unnamed, told = "" in contents.sets, contents.facts.get("description", {}).get("weights")
    if unnamed:
        wanted = (told or weights,)
    elif whole:  # of one of them both are made
        wanted = tuple(who for who in SETS if who in contents.sets)
    else:
        wanted = (weights,)
    if unnamed and weights == "student" and wanted == ("teacher",):
        raise UserError(f"{path} holds no student, only the teacher")
    if missing := [who for who in wanted if not unnamed and who not in contents.sets]:
        raise UserError(f"{path} holds no {missing[0]}, only the {' and '.join(contents.sets)}")
    taken = {who: take(contents, "" if unnamed else who, path, known, head=head) for who in wanted}
    return Found(
        kind=f"{contents.kind} with names of {taken[wanted[0]].dialect.name}",
        description=_describe(contents, taken, path, source.place),
        params=_with_mask_tokens({who: part.params for who, part in taken.items()}),
        centers={
            kind: read_tensor(tensor, f"{kind} center", path).reshape(-1)
            for kind, tensor in contents.centers.items()
            if whole
        },
        notes=_notes(contents, taken),
        named=not unnamed or bool(told),
    )


def _read_own(path: str, kind: str, *, weights: str, step: str, head: bool | None) -> Found:
    model, params = load(path, weights=weights, step=step, head=head)
    who = model.facts.get("weights", weights)
    return Found(kind, model.description(head=len(params) > 1), {who: params}, {}, ())


def _describe(
    contents: Contents, taken: dict[str, Taken], path: str, source: epath.Path
) -> dict[str, Any]:
    """Returns the description of a converted model."""
    head = all("head" in part.params for part in taken.values())
    config = dict(next(iter(taken.values())).config)
    if len(taken) > 1:
        config["head.shared"] = taken["student"].config["head.shared"]
    facts = {"weights": "teacher" if len(taken) > 1 else next(iter(taken))}
    told = contents.facts.get("description", {})
    facts |= {k: contents.facts[k] for k in ("args", "epoch", "license") if k in contents.facts}
    facts |= told
    facts.pop("head", None)  # described anew, if it comes along
    facts["ibot_jax"] = ibot_jax.__version__
    facts["converted_from"] = {"file": source.name, "kind": contents.kind}
    if is_on_hub(path):
        facts["converted_from"] |= {"file": path, "revision": source.name}
    if not source.is_dir():
        facts["converted_from"]["sha256"] = _file_hash(source)
    view = _view(contents, source, config["data.global_size"])
    return facts | describe(config, head=head, view=view)


def _view(contents: Contents, source: epath.Path, size: tuple[int, int]) -> CentralView:
    """Returns how images are resized and cut: as there, or as 256 pixels before 224."""
    if description := contents.facts.get("description"):
        return described_view(description, str(source))
    return contents.facts.get("view") or view_of_run(size, round(max(size) * 8 / 7))


def _with_mask_tokens(params: dict[str, Params]) -> dict[str, Params]:
    """Gives the teacher the student's mask token, since the original's teacher has none."""
    if len(params) > 1:
        mask_token = params["student"]["backbone"]["mask_token"]
        params["teacher"]["backbone"]["mask_token"] = mask_token
    return params


def _notes(contents: Contents, taken: dict[str, Taken]) -> tuple[str, ...]:
    whole = len(taken) > 1
    notes = [*contents.facts.get("notes", ())]
    notes += [note for part in taken.values() for note in part.notes]
    if whole:
        notes = [note for note in notes if note != NO_MASK_TOKEN]
    if licence := contents.facts.get("license"):
        notes.append(f"licence, as what lies beside it says: {licence}")
    passed = [f"the {who}" for who in contents.sets if who and who not in taken]
    if contents.centers and not whole:
        passed.append("centers")
    if passed := [*passed, *contents.others]:
        notes.append(f"left out: {', '.join(passed)}")
    return tuple(dict.fromkeys(notes))


def _file_hash(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
