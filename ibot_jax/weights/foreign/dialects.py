"""How other projects name the tensors of a backbone.

The original's names, those of `original_names` without "backbone.", are what all are told by: DINO
has the same, timm and DINOv2 nearly, and Hugging Face's transformers others, with query, key and
value apart.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

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
_HUGGING_FACE_BLOCK = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The names of one project.

    Attributes:
      name: of the project, for people.
      arch: kind of backbone, a value of `model.arch`.
      mark: regular expression; the first dialect of `_DIALECTS` of which it matches a name is it.
      blocks: regular expression of what the names of a block's tensors start with; its groups are
        the number of the stage, where there are stages, and that of the block.
      rules: regular expressions and replacements that make its names of the original's.
      query_key_value: what stands before their names where they are apart; "" where they are one.
      norm_eps: LayerNorm's epsilon, where the project has one for all of its models.
    """

    name: str
    arch: str
    mark: str
    blocks: str
    rules: Rules = ()
    query_key_value: str = ""
    norm_eps: float | None = None

    def names(self, original: str) -> tuple[str, ...]:
        """Returns the name of the original's tensor, or of the parts to be stacked."""
        name = original
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        if self.query_key_value and ".attn.qkv." in name:
            return tuple(name.replace(".attn.qkv.", f"{self.query_key_value}{p}.") for p in _QKV)
        return (name,)

    def depths(self, names: Iterable[str]) -> tuple[int, ...]:
        """Returns how many blocks there are by stage, by the largest numbers in names."""
        depths: dict[int, int] = {}
        for match in filter(None, (re.match(self.blocks, name) for name in names)):
            stage, block = map(int, ("0", *match.groups())[-2:])
            depths[stage] = max(depths.get(stage, 0), block + 1)
        return tuple(depths.get(stage, 0) for stage in range(max(depths, default=0) + 1))


_VIT_BLOCKS, _SWIN_BLOCKS = r"blocks\.(\d+)\.", r"layers\.(\d+)\.blocks\.(\d+)\."
ORIGINAL = Dialect("iBOT or DINO", "vit", r"blocks\.", _VIT_BLOCKS, norm_eps=1e-6)
TIMM = Dialect(
    "timm or DINOv2",
    "vit",
    r"\.ls1\.|^mask_token$",
    _VIT_BLOCKS,
    ((r"\.gamma_([12])$", r".ls\1.gamma"), (r"^masked_embed$", "mask_token")),
    norm_eps=1e-6,
)
HUGGING_FACE = Dialect(
    "Hugging Face's ViT",
    "vit",
    r"\.layernorm_before\.",
    r"encoder\.layer\.(\d+)\.",
    (*_HUGGING_FACE, *_HUGGING_FACE_BLOCK),
    ".attention.attention.",
)
HUGGING_FACE_DINOV2 = Dialect(
    "Hugging Face's DINOv2",
    "vit",
    r"encoder\.layer\.",
    r"encoder\.layer\.(\d+)\.",
    (*_HUGGING_FACE, (r"\.gamma_([12])$", r".layer_scale\1.lambda1")),
    ".attention.attention.",
    norm_eps=1e-6,
)
# The original has the names of Swin's authors, who keep masks of windows in their files, too.
ORIGINAL_SWIN = Dialect("iBOT's Swin", "swin", r"^layers\.0\.downsample\.", _SWIN_BLOCKS)
AUTHORS_SWIN = Dialect("Swin's authors", "swin", r"\.attn_mask$", _SWIN_BLOCKS, norm_eps=1e-5)
TIMM_SWIN = Dialect(  # a merging is the start of the next stage
    "timm's Swin",
    "swin",
    rf"^{_SWIN_BLOCKS}",
    _SWIN_BLOCKS,
    ((r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample."),),
    norm_eps=1e-5,
)
HUGGING_FACE_SWIN = Dialect(
    "Hugging Face's Swin",
    "swin",
    rf"^encoder\.{_SWIN_BLOCKS}",
    rf"encoder\.{_SWIN_BLOCKS}",
    (
        *_HUGGING_FACE,
        *_HUGGING_FACE_BLOCK,
        (r"^patch_embed\.norm", "embeddings.norm"),
        (r"^layers\.", "encoder.layers."),
        (r"\.attn\.relative", ".attention.self.relative"),
    ),
    ".attention.self.",
    norm_eps=1e-5,
)
_DIALECTS = (
    HUGGING_FACE_SWIN,
    AUTHORS_SWIN,
    ORIGINAL_SWIN,
    TIMM_SWIN,
    HUGGING_FACE,
    HUGGING_FACE_DINOV2,
    TIMM,
    ORIGINAL,
)


def find_dialect(names: Collection[str]) -> Dialect | None:
    """Returns whose names these are; None if they are no backbone's that is known here."""
    return next((d for d in _DIALECTS if any(re.search(d.mark, name) for name in names)), None)


def to_dialect(dialect: Dialect, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the original's tensors, and splits what the dialect has in parts."""
    renamed = {}
    for original, tensor in tensors.items():
        names = dialect.names(original)
        renamed |= zip(names, np.split(tensor, len(names)), strict=True)
    return renamed
