"""How other projects name the tensors of a backbone.

The original's names, those of `original_names` without "backbone.", are what all are told by: DINO
has the same, timm and DINOv2 nearly, and Hugging Face's transformers others, with query, key and
value apart. Of transformers there are two of each: what its files have, and what its models have
once they are loaded.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ibot_jax.config.section import Section
from ibot_jax.weights.deferred import Array, mapped, split

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]
Shapes = Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The names of one project.

    Attributes:
      name: of the project, for people.
      arch: kind of backbone, a value of `model.arch`.
      marks: regular expressions; the first dialect of `_DIALECTS` each of which matches a name is
        it, if its `packed` are two in one and it has nothing of `without`.
      blocks: regular expression of what the names of a block's tensors start with; its groups are
        the number of the stage, where there are stages, and that of the block.
      rules: regular expressions and replacements that make its names of the original's.
      parts: regular expressions of the original's tensors that are there in equal parts, and what
        takes their place in the name of each part; None is a part that is not there, zeros.
      packed: regular expression of the original's tensors that are there two in one; its group is
        the number, 1 or 2.
      without: regular expression that no name matches.
      class_has_position: whether the class token is there with its position added, and positions
        are those of patches.
      masks_key_bias: whether the bias of keys, if any, counts for nothing.
      norm_eps: the norms' epsilon, where the project has one for all of its models.
      resampling: of positions, `model.pos_offset` and `model.pos_antialias`; None where positions
        are rotary.
    """

    name: str
    arch: str
    marks: tuple[str, ...]
    blocks: str
    rules: Rules = ()
    parts: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    packed: str = ""
    without: str = ""
    class_has_position: bool = False
    masks_key_bias: bool = False
    norm_eps: float | None = None
    resampling: tuple[float, bool] | None = (0.1, False)

    def names(self, original: str) -> tuple[str | None, ...]:
        """Returns the name of the original's tensor, or of the parts to be stacked."""
        for pattern, replacements in self.parts:
            if re.search(pattern, original):
                whole = [part and re.sub(pattern, part, original) for part in replacements]
                return tuple(part and self._name(part) for part in whole)
        return (self._name(original),)

    def _name(self, name: str) -> str:
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name

    def half(self, original: str) -> int | None:
        """Returns which half of what `names` are stacked to the original's tensor is, 0 or 1."""
        match = re.search(self.packed, original) if self.packed else None
        return int(match.group(1)) - 1 if match else None

    def depths(self, names: Iterable[str]) -> tuple[int, ...]:
        """Returns how many blocks there are by stage, by the largest numbers in names."""
        depths: dict[int, int] = {}
        for match in filter(None, (re.match(self.blocks, name) for name in names)):
            stage, block = map(int, ("0", *match.groups())[-2:])
            depths[stage] = max(depths.get(stage, 0), block + 1)
        return tuple(depths.get(stage, 0) for stage in range(max(depths, default=0) + 1))

    def takes(self, shapes: Shapes) -> bool:
        """Returns whether tensors may be of this dialect, by their names and shapes."""
        if not all(any(re.search(mark, name) for name in shapes) for mark in self.marks):
            return False
        if self.without and any(re.search(self.without, name) for name in shapes):
            return False
        if not self.packed:
            return True
        first, last = (
            shapes.get(self._name(f"blocks.0.mlp.{name}.weight"), ()) for name in ("w1", "w3")
        )
        return len(first) == len(last) == 2 and first[0] == 2 * last[1]


def _three(before: str, names: Sequence[str], leaf: str = "") -> tuple[str, ...]:
    return tuple(f"{before}{name}.{leaf}" for name in names)


_VIT_BLOCKS, _SWIN_BLOCKS = r"^blocks\.(\d+)\.", r"^layers\.(\d+)\.blocks\.(\d+)\."
_HF_BLOCKS = r"^encoder\.layer\.(\d+)\."
_PACKED = r"\.mlp\.w([12])\."
_LS = (r"\.gamma_([12])$", r".ls\1.gamma")
_MASK_TOKEN = (r"^masked_embed$", "mask_token")
_W12 = (_PACKED, ".mlp.w12.")
_QKV, _PROJ = ("query", "key", "value"), ("q_proj", "k_proj", "v_proj")
_FC1_FC2 = ((_PACKED, ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))

ORIGINAL = Dialect("iBOT or DINO", "vit", (r"^blocks\.",), _VIT_BLOCKS, norm_eps=1e-6)
MAE = Dialect(
    "MAE", "vit", (r"^decoder_embed\.",), _VIT_BLOCKS, norm_eps=1e-6, resampling=(0.0, False)
)
DINOV2 = Dialect(
    "DINOv2",
    "vit",
    (r"^mask_token$",),
    _VIT_BLOCKS,
    (_LS, _MASK_TOKEN),
    norm_eps=1e-6,
)
DINOV2_PACKED = dataclasses.replace(DINOV2, rules=(_LS, _MASK_TOKEN, _W12), packed=_PACKED)
_HUB_REGISTERS = dict(marks=(r"^register_tokens$",), resampling=(0.0, True))
DINOV2_REGISTERS = dataclasses.replace(DINOV2, **_HUB_REGISTERS)
DINOV2_REGISTERS_PACKED = dataclasses.replace(DINOV2_PACKED, **_HUB_REGISTERS)
DINOV3 = Dialect(
    "DINOv3",
    "vit",
    (r"^rope_embed\.periods$|^storage_tokens$",),
    _VIT_BLOCKS,
    (_LS, _MASK_TOKEN, ("^register_tokens$", "storage_tokens")),
    norm_eps=1e-5,
    resampling=None,
)
TIMM = Dialect(
    "timm",
    "vit",
    (r"\.ls1\.",),
    _VIT_BLOCKS,
    (_LS, _MASK_TOKEN),
    norm_eps=1e-6,
    resampling=(0.0, True),
)
TIMM_PACKED = dataclasses.replace(
    TIMM, marks=(r"^blocks\.0\.mlp\.fc1\.",), rules=(_LS, *_FC1_FC2), packed=_PACKED
)
_TIMM_REGISTERS = dict(marks=(r"^reg_token$", r"^pos_embed$"), class_has_position=True)
_REGISTERS = ("^register_tokens$", "reg_token")
TIMM_REGISTERS = dataclasses.replace(TIMM, rules=(*TIMM.rules, _REGISTERS), **_TIMM_REGISTERS)
TIMM_REGISTERS_PACKED = dataclasses.replace(
    TIMM_PACKED, rules=(*TIMM_PACKED.rules, _REGISTERS), **_TIMM_REGISTERS
)
TIMM_EVA = Dialect(
    "timm's Eva",
    "vit",
    (r"\.gamma_1$",),
    _VIT_BLOCKS,
    (
        _REGISTERS,
        _MASK_TOKEN,
        (r"\.mlp\.w1\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
    ((r"\.attn\.qkv\.bias$", (".attn.q_bias", None, ".attn.v_bias")),),
    without=r"^pos_embed$",
    masks_key_bias=True,
    norm_eps=1e-5,
    resampling=None,
)

_HUGGING_FACE_TOKENS = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^masked_embed$", "embeddings.mask_token"),
    (r"^register_tokens$", "embeddings.register_tokens"),
)
_HUGGING_FACE = (
    *_HUGGING_FACE_TOKENS,
    (r"^pos_embed$", "embeddings.position_embeddings"),
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
_LAMBDA = (r"\.gamma_([12])$", r".layer_scale\1.lambda1")
_GATED = (
    (r"\.mlp\.w1\.", ".mlp.gate_proj."),
    (r"\.mlp\.w2\.", ".mlp.up_proj."),
    (r"\.mlp\.w3\.", ".mlp.down_proj."),
)
_APART = r"\.attn\.qkv\."
HUGGING_FACE = Dialect(
    "Hugging Face's ViT",
    "vit",
    (r"^encoder\.layer\.0\.layernorm_before\.",),
    _HF_BLOCKS,
    (*_HUGGING_FACE, *_HUGGING_FACE_BLOCK),
    ((_APART, _three(".attention.attention.", _QKV)),),
    resampling=(0.0, False),
)
HUGGING_FACE_LOADED = dataclasses.replace(
    HUGGING_FACE,
    marks=(r"^layers\.0\.layernorm_before\.",),
    blocks=r"^layers\.(\d+)\.",
    rules=(
        (r"^blocks\.", "layers."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        *_HUGGING_FACE,
        *_HUGGING_FACE_BLOCK[:2],
    ),
    parts=((_APART, _three(".attention.", _PROJ)),),
)
HUGGING_FACE_DINOV2 = Dialect(
    "Hugging Face's DINOv2",
    "vit",
    (r"^encoder\.layer\.0\.attention\.attention\.",),
    _HF_BLOCKS,
    (
        *_HUGGING_FACE,
        _LAMBDA,
        (_PACKED, ".mlp.weights_in."),
        (r"\.mlp\.w3\.", ".mlp.weights_out."),
    ),
    ((_APART, _three(".attention.attention.", _QKV)),),
    norm_eps=1e-6,
    resampling=(0.0, False),
)
HUGGING_FACE_DINOV2_PACKED = dataclasses.replace(HUGGING_FACE_DINOV2, packed=_PACKED)
_HUGGING_FACE_REGISTERS = dict(
    name="Hugging Face's DINOv2 with registers",
    marks=(*HUGGING_FACE_DINOV2.marks, r"^embeddings\.register_tokens$"),
    resampling=(0.0, True),
)
HUGGING_FACE_REGISTERS = dataclasses.replace(HUGGING_FACE_DINOV2, **_HUGGING_FACE_REGISTERS)
HUGGING_FACE_REGISTERS_PACKED = dataclasses.replace(
    HUGGING_FACE_DINOV2_PACKED, **_HUGGING_FACE_REGISTERS
)
HUGGING_FACE_DINOV2_LOADED = dataclasses.replace(
    HUGGING_FACE_DINOV2,
    marks=(r"^encoder\.layer\.0\.attention\.q_proj\.",),
    rules=((r"\.attn\.proj\.", ".attention.o_proj."), *_HUGGING_FACE, _LAMBDA, *_GATED),
    parts=((_APART, _three(".attention.", _PROJ)),),
)
HUGGING_FACE_REGISTERS_LOADED = dataclasses.replace(
    HUGGING_FACE_DINOV2_LOADED,
    **_HUGGING_FACE_REGISTERS
    | dict(marks=(*HUGGING_FACE_DINOV2_LOADED.marks, r"^embeddings\.register_tokens$")),
)
# Where keys have no bias, which is how it is published; one that has it is the other.
_KEY_MASKED = (
    (r"\.attn\.qkv\.weight$", _three(".attention.", _PROJ, "weight")),
    (r"\.attn\.qkv\.bias$", (".attention.q_proj.bias", None, ".attention.v_proj.bias")),
)
HUGGING_FACE_DINOV3 = Dialect(
    "Hugging Face's DINOv3",
    "vit",
    (r"^layer\.0\.attention\.q_proj\.",),
    r"^layer\.(\d+)\.",
    (
        (r"^blocks\.", "layer."),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings"),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.mlp\.fc1\.", ".mlp.up_proj."),
        (r"\.mlp\.fc2\.", ".mlp.down_proj."),
        *_HUGGING_FACE_TOKENS,
        _LAMBDA,
        *_GATED,
    ),
    _KEY_MASKED,
    masks_key_bias=True,
    norm_eps=1e-5,
    resampling=None,
)
HUGGING_FACE_DINOV3_KEY_BIAS = dataclasses.replace(
    HUGGING_FACE_DINOV3,
    marks=(*HUGGING_FACE_DINOV3.marks, r"^layer\.0\.attention\.k_proj\.bias$"),
    parts=((_APART, _three(".attention.", _PROJ)),),
    masks_key_bias=False,
)

# The original has the names of Swin's authors, who keep masks of windows in their files, too.
ORIGINAL_SWIN = Dialect("iBOT's Swin", "swin", (r"^layers\.0\.downsample\.",), _SWIN_BLOCKS)
AUTHORS_SWIN = Dialect("Swin's authors", "swin", (r"\.attn_mask$",), _SWIN_BLOCKS, norm_eps=1e-5)
TIMM_SWIN = Dialect(  # a merging is the start of the next stage
    "timm's Swin",
    "swin",
    (_SWIN_BLOCKS,),
    _SWIN_BLOCKS,
    ((r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample."),),
    norm_eps=1e-5,
)
HUGGING_FACE_SWIN = Dialect(
    "Hugging Face's Swin",
    "swin",
    (r"^encoder\.layers\.(\d+)\.blocks\.(\d+)\.",),
    r"^encoder\.layers\.(\d+)\.blocks\.(\d+)\.",
    (
        *_HUGGING_FACE,
        *_HUGGING_FACE_BLOCK,
        (r"^patch_embed\.norm", "embeddings.norm"),
        (r"^layers\.", "encoder.layers."),
        (r"\.attn\.relative", ".attention.self.relative"),
    ),
    ((_APART, _three(".attention.self.", _QKV)),),
    norm_eps=1e-5,
)
_DIALECTS = (
    *(HUGGING_FACE_SWIN, AUTHORS_SWIN, ORIGINAL_SWIN, TIMM_SWIN),
    *(HUGGING_FACE_DINOV3_KEY_BIAS, HUGGING_FACE_DINOV3),
    *(HUGGING_FACE, HUGGING_FACE_LOADED),
    *(HUGGING_FACE_REGISTERS_PACKED, HUGGING_FACE_REGISTERS, HUGGING_FACE_REGISTERS_LOADED),
    *(HUGGING_FACE_DINOV2_PACKED, HUGGING_FACE_DINOV2, HUGGING_FACE_DINOV2_LOADED),
    *(DINOV3, DINOV2_REGISTERS_PACKED, DINOV2_REGISTERS, MAE, DINOV2_PACKED, DINOV2),
    *(TIMM_REGISTERS_PACKED, TIMM_REGISTERS, TIMM_EVA, TIMM_PACKED, TIMM),
    ORIGINAL,
)


def find_dialect(shapes: Shapes) -> Dialect | None:
    """Returns whose names and shapes these are; None if no backbone's that is known here."""
    return next((dialect for dialect in _DIALECTS if dialect.takes(shapes)), None)


def to_dialect(dialect: Dialect, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Renames the original's tensors, and splits and joins what the dialect has otherwise."""
    tensors = dict(tensors)
    if dialect.class_has_position:
        token, positions = np.asarray(tensors["cls_token"]), np.asarray(tensors["pos_embed"])
        tensors["cls_token"] = token + positions[:, :1]
        tensors["pos_embed"] = positions[:, 1:]
    renamed: dict[str, Array] = {}
    for original, tensor in sorted(tensors.items()):
        names = dialect.names(original)
        for name, part in zip(names, split(tensor, len(names)), strict=True):
            if dialect.half(original) == 1:  # the first half came before it
                part = mapped(lambda *halves: np.concatenate(halves), renamed[name], part)
            if name is not None:
                renamed[name] = part
    return renamed


def torch_dialect(model: Section) -> Dialect:
    """Returns the names by which PyTorch's own programs know such a backbone."""
    if model.arch == "swin":
        return ORIGINAL_SWIN
    if model.positions == "rotary":
        return DINOV3
    gated = model.ffn == "swiglu"
    if model.registers:
        return DINOV2_REGISTERS_PACKED if gated else DINOV2_REGISTERS
    return DINOV2_PACKED if gated else ORIGINAL


def timm_dialect(model: Section) -> Dialect:
    """Returns the names by which timm knows such a backbone."""
    if model.arch == "swin":
        return TIMM_SWIN
    if model.positions == "rotary":
        return TIMM_EVA
    gated = model.ffn == "swiglu"
    if model.registers:
        return TIMM_REGISTERS_PACKED if gated else TIMM_REGISTERS
    return TIMM_PACKED if gated else TIMM


def transformers_dialect(model: Section) -> Dialect:
    """Returns the names by which the files of transformers know such a backbone."""
    if model.arch == "swin":
        return HUGGING_FACE_SWIN
    if model.positions == "rotary":
        full = model.qkv_bias == "full"
        return HUGGING_FACE_DINOV3_KEY_BIAS if full else HUGGING_FACE_DINOV3
    gated = model.ffn == "swiglu"
    if model.registers:
        return HUGGING_FACE_REGISTERS_PACKED if gated else HUGGING_FACE_REGISTERS
    if gated:
        return HUGGING_FACE_DINOV2_PACKED
    return HUGGING_FACE_DINOV2 if model.layer_scale else HUGGING_FACE
