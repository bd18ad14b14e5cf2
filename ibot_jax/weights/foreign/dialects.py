"""How other projects name the tensors of a Vision Transformer.

The original's names, those of `original_names` without "backbone.", are what all are told by: DINO
has the same, timm and DINOv2 nearly, and Hugging Face's transformers others, with query, key and
value apart.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

_QKV = ("query", "key", "value")
_HUGGING_FACE = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^masked_embed$", "embeddings.mask_token"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The names of one project.

    Attributes:
      name: of the project, for people.
      mark: part of its names that no dialect after it in `_DIALECTS` has.
      blocks: what the names of a block's tensors start with, before its number.
      rules: regular expressions and replacements that make its names of the original's.
    """

    name: str
    mark: str
    blocks: str
    rules: tuple[tuple[str, str], ...]

    def names(self, original: str) -> tuple[str, ...]:
        """Returns the name of the original's tensor, or of the parts to be stacked."""
        name = original
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        if self.blocks == "encoder.layer." and ".attn.qkv." in name:
            return tuple(name.replace(".attn.qkv.", f".attention.attention.{p}.") for p in _QKV)
        return (name,)

    def depth(self, names: Iterable[str]) -> int:
        """Returns how many blocks there are, by the largest number in a name."""
        numbers = (re.match(rf"{re.escape(self.blocks)}(\d+)\.", name) for name in names)
        return max((int(number.group(1)) + 1 for number in numbers if number), default=0)


ORIGINAL = Dialect("iBOT or DINO", "blocks.", "blocks.", ())
TIMM = Dialect(
    "timm or DINOv2",
    ".ls1.",
    "blocks.",
    ((r"\.gamma_([12])$", r".ls\1.gamma"), (r"^masked_embed$", "mask_token")),
)
HUGGING_FACE = Dialect(
    "Hugging Face's ViT",
    ".layernorm_before.",
    "encoder.layer.",
    (
        *_HUGGING_FACE,
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
)
HUGGING_FACE_DINOV2 = Dialect(
    "Hugging Face's DINOv2",
    "encoder.layer.",
    "encoder.layer.",
    (*_HUGGING_FACE, (r"\.gamma_([12])$", r".layer_scale\1.lambda1")),
)
_DIALECTS = (HUGGING_FACE, HUGGING_FACE_DINOV2, TIMM, ORIGINAL)


def find_dialect(names: Collection[str]) -> Dialect | None:
    """Returns whose names these are; None if they are no Vision Transformer's."""
    if "mask_token" in names:
        return TIMM
    return next((d for d in _DIALECTS if any(d.mark in name for name in names)), None)


def to_dialect(dialect: Dialect, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the original's tensors, and splits what the dialect has in parts."""
    renamed = {}
    for original, tensor in tensors.items():
        names = dialect.names(original)
        renamed |= zip(names, np.split(tensor, len(names)), strict=True)
    return renamed
