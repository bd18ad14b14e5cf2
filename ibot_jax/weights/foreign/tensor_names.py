"""How one file names its tensors: wrappers and prefixes, whose they are, what they belong to."""

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.dialects import Dialect, find_dialect

T = TypeVar("T")

# What DistributedDataParallel, torch.compile, FSDP and checkpointing put into names.
_WRAPPER = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_WRAPPED = re.compile(rf"(?:{_WRAPPER.pattern})*")
# What a backbone is found by, in this order.
_MARKS = (
    r"(?:embeddings\.)?cls_token",
    r"(?:patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight",
    r"(?:(?:encoder\.)?layers\.0\.blocks|blocks|encoder\.layer)\.0\..*",
)
_CLIP = r"(^|\.)class_embedding$"
CLIP = "CLIP's vision tower, which normalises tokens before its first block; no model here does"
# Whose a backbone is, by the words in what its names start with.
_OWNERS = {"teacher": "teacher", "momentum": "teacher", "ema": "teacher", "target": "teacher"}
_OWNERS |= {"student": "student", "online": "student"}
# Modules that read tokens, or are no part of a network: nothing that a token is computed from.
_READERS = ("classifier", "*_classifier", "fc", "pooler", "attn_pool", "pre_logits", "logit_scale")
_READERS += ("decoder", "decoder_*", "criterion", "loss", "*_loss")
_READERS += ("text", "text_model", "text_projection", "visual_projection")  # of CLIP
_HEADS = ("head", "head_*", "*_head", "heads", "projector", "predictor", "prototypes")


@dataclasses.dataclass(frozen=True)
class FileNames:
    """How one file names the original's tensors.

    A name is told by what it says once wrappers are taken off and older spellings are made one, its
    plain name.

    Attributes:
      dialect: of its backbone.
      backbone: what the backbone's plain names start with.
      head: what those of its projection head start with; empty if there is none.
      depths: how many blocks the names tell of, by stage.
      has_decoder: whether it is a masked autoencoder, whose mask token is its decoder's.
      in_file: the names that the file has, by plain names.
      wrapper: what all names in the file start with and plain names do not.
    """

    dialect: Dialect
    backbone: str
    head: str
    depths: tuple[int, ...]
    has_decoder: bool
    in_file: Mapping[str, str]
    wrapper: str

    @classmethod
    def of(cls, tensors: Mapping[str, Any], path: str) -> "FileNames":
        """Finds out how a file names its tensors, which have shapes.

        Raises:
          UserError: if they are no Transformer's that is known here, or those of more than one.
        """
        in_file = _by_plain_name(tensors, path)
        roots = backbone_roots(in_file)
        if len(roots) > 1:
            raise UserError(
                f"{path} holds several backbones, whose names start with "
                f"{', '.join(root or 'nothing' for root in roots)}; save the tensors of one alone"
            )
        backbone = roots[0] if roots else ""
        local = {
            plain.removeprefix(backbone): tensors[name].shape
            for plain, name in in_file.items()
            if plain.startswith(backbone)
        }
        dialect = find_dialect(local)
        if dialect is None:
            if any(re.search(_CLIP, name) for name in in_file):
                raise UserError(f"{path} holds {CLIP}")
            raise UserError(
                f"{path} holds no Vision Transformer, nor a Swin: its first names are "
                f"{', '.join(list(in_file)[:4])}"
            )
        first = next(iter(in_file.values()))
        wrapper = _WRAPPED.match(first).group()
        if not all(name.startswith(wrapper) for name in in_file.values()):
            wrapper = ""
        return cls(
            dialect=dialect,
            backbone=backbone,
            head=_head_root(in_file, backbone),
            depths=dialect.depths(local),
            has_decoder=any(name.startswith("decoder_") for name in local),
            in_file=in_file,
            wrapper=wrapper,
        )

    def find(self, original: str) -> tuple[str | None, ...]:
        """Returns the names in the file of one of the original's tensors, or of its parts.

        What the file lacks is named as it would be there; None is a part that is zeros.
        """
        part, _, name = original.partition(".")
        if part in ("head", "patch_head"):
            plain = (f"{self.head if part == 'head' else self.patch_head}{name}",)
        else:
            parts = self.dialect.names(name)
            plain = tuple(part and f"{self.backbone}{part}" for part in parts)
        return tuple(name and self.in_file.get(name, f"{self.wrapper}{name}") for name in plain)

    def is_head(self, name: str) -> bool:
        """Returns whether a name in the file is that of a tensor of a projection head."""
        return bool(self.head) and plain_name(name).startswith((self.head, self.patch_head))

    @property
    def patch_head(self) -> str:
        """What the plain names of a head of patch tokens alone start with, if there is one."""
        if "dino_head" in self.head:
            return self.head.replace("dino_head", "ibot_head")
        return re.sub(r"head\.$", "patch_head.", self.head)

    def is_other_head(self, name: str) -> bool:
        """Returns whether a name in the file is that of a tensor of another head."""
        return (
            not self.is_head(name)
            and self.is_after_tokens(name, is_integer=False, head=False)
            and not self.is_after_tokens(name, is_integer=False, head=True)
        )

    def is_after_tokens(self, name: str, *, is_integer: bool, head: bool) -> bool:
        """Returns whether tokens are the same whatever a tensor holds, by its place in the network.

        That is so of what reads tokens: classifiers, poolers, heads and decoders. It is taken for
        so of tables of integers at the top, which are counters and places.

        Args:
          name: in the file.
          is_integer: whether the tensor holds integers.
          head: whether the projection head is part of what is computed; no other may be left over
            then.
        """
        plain = next(plain for plain, in_file in self.in_file.items() if in_file == name)
        parent = re.sub(r"[^.]+\.$", "", self.backbone)
        start = next(s for s in (self.backbone, parent, "") if plain.startswith(s))
        local = plain.removeprefix(start)
        if is_integer and (local == "embeddings.position_ids" or "." not in local):
            return True
        if local == "mask_token" and self.has_decoder:
            return True
        readers = _READERS if head else _READERS + _HEADS
        module = local.partition(".")[0]
        return any(fnmatch.fnmatchcase(module, pattern) for pattern in readers)


def plain_name(name: str) -> str:
    """Returns a name without what wrapped the model, and with one spelling of two.

    Blocks that DINOv2 trains in chunks, `blocks.CHUNK.NUMBER`, are numbered through; those of
    transformers' DINOv3 are `layer.NUMBER` once they are loaded, too; tensors of a
    layer with weight norm have the names of before PyTorch's parametrizations.
    """
    name = _WRAPPER.sub("", name)
    name = re.sub(r"(^|\.)blocks\.\d+\.(\d+\.)", r"\1blocks.\2", name)
    name = re.sub(r"(^|\.)model\.layer\.(\d+\.)", r"\1layer.\2", name)
    name = name.replace(".parametrizations.weight.original0", ".weight_g")
    return name.replace(".parametrizations.weight.original1", ".weight_v")


def _by_plain_name(names: Iterable[str], path: str) -> dict[str, str]:
    in_file: dict[str, str] = {}
    for name in names:
        plain = plain_name(name)
        if plain in in_file:
            raise UserError(
                f"{path} holds {in_file[plain]} and {name}, which are the same tensor without the "
                "names of wrappers; save one alone"
            )
        in_file[plain] = name
    return in_file


def backbone_roots(plain_names: Iterable[str]) -> list[str]:
    """Returns what the names of each backbone start with, such as "backbone." or "".

    A backbone is what has a class token; if none has, what has a projection of patches, or blocks.
    """
    for mark in _MARKS:
        matches = (re.fullmatch(rf"(|.*?\.){mark}", name) for name in plain_names)
        if roots := [match.group(1) for match in matches if match]:
            return list(dict.fromkeys(roots))
    return []


def _head_root(plain_names: Iterable[str], backbone: str) -> str:
    """Returns what the names of the projection head beside a backbone start with."""
    if not backbone:  # a head among a backbone's own tensors is a classifier
        return ""
    parent, module = re.fullmatch(r"(|.*\.)([^.]+\.)", backbone).groups()
    for root in (parent + module.replace("backbone", "head"), f"{parent}dino_head."):
        parts = tuple(f"{root}{part}" for part in ("mlp.", "last_layer"))
        if root != backbone and any(name.startswith(parts) for name in plain_names):
            return root
    return ""


def split_by_owner(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Takes apart what one set of tensors holds of a student and of a teacher.

    Args:
      tensors: by the names of a file, such as "teacher_backbone.cls_token".

    Returns:
      The tensors of "teacher" and "student", as far as names tell of a backbone of theirs, each
      with what is nobody's; or all of them by "".
    """
    roots = backbone_roots([plain_name(name) for name in tensors])
    owners = {root: _owner(root) for root in roots}
    if set(owners.values()) == {"", "teacher"}:
        owners = {root: owner or "student" for root, owner in owners.items()}
    if "" in owners.values() or not owners:
        return {"": dict(tensors)}
    sets: dict[str, dict[str, T]] = {owner: {} for owner in owners.values()}
    for name, tensor in tensors.items():
        plain = plain_name(name)
        root = next((root for root in owners if plain.startswith(root)), None)
        owner = _owner(plain) if root is None else owners[root]
        for who in [owner] if owner in sets else sets:
            sets[who][name] = tensor
    return sets


def _owner(name: str) -> str:
    words = re.split(r"[._]", name)
    return next((_OWNERS[word] for word in words if word in _OWNERS), "")
