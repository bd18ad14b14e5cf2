"""The Vision Transformer that iBOT trains: student and teacher backbone (paper, section 4.1)."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels import packing
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON
from ibot_jax.kernels.specs import PackingSpec
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.block import REMAT_POLICIES, Block, start_of_block
from ibot_jax.models.layer_norm import Norm
from ibot_jax.models.linear import normal_init
from ibot_jax.models.patch_embed import PatchEmbed
from ibot_jax.models.positions import resample_positions
from ibot_jax.models.rope import Rope
from ibot_jax.models.tokens import Attention, Tokens
from ibot_jax.parallel.fsdp import Shard, gather, is_shard

Array = jax.Array


def gathered_by_block(name: str) -> bool:
    """Returns whether a parameter is gathered by its block, see `parallel.fsdp`, and not before."""
    return re.search(r"(^|/)backbone/blocks_\d+/", name) is not None


@flax.struct.dataclass
class Sequences:
    """Tokens on their way through the blocks, and what these take beside them.

    Attributes:
      x: [B, T, D].
      gains: [depth, 2, B, T or 1, 1] of stochastic depth; None is 1.
      rotation: [2, N, head_dim] of rotary positions, or of each block, [depth, 2, N, head_dim];
        None without.
      owners: [T], see `Block`.
    """

    x: Array
    gains: Array | None
    rotation: Array | None
    owners: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())

    def by_block(self) -> tuple[Array | None, Array | None]:
        """Returns what each block has of its own, leading with the depth: gains, rotations."""
        own = self.rotation if self.rotation is not None and self.rotation.ndim > 3 else None
        return self.gains, own


class ViT(nn.Module):
    """A Vision Transformer with class token, mask token, and positions.

    The heirs' options are off by default: registers, rotary positions, gated feed-forward networks,
    other norms and biases, and norms of their own for class tokens (DINOv2, DINOv3).

    Attributes:
      patch_size: side of a patch in pixels.
      width: token dimension, D.
      depth: number of blocks.
      heads: attention heads of a block.
      hidden_dim: of the feed-forward networks; 0 follows from `mlp_ratio`, see `geometry_of`.
      mlp_ratio: hidden over token dimension of the feed-forward networks.
      layer_scale: initial LayerScale gain; 0 leaves it out.
      grid: (rows, columns) of patches that the positions are trained for.
      registers: number of register tokens, R, which have no positions.
      positions: "learned", of class token and patches, resampled for other grids; or "rotary".
      pos_offset: of the resampling, see `positions.interpolation_matrix`.
      pos_antialias: likewise.
      rope_base: of the rotations' periods, see `Rope`; as are all with this prefix.
      rope_min_period: the shortest, with the longest in place of the base; 0 without.
      rope_max_period: the longest; 0 without.
      rope_coordinates: "separate", "min" or "max".
      rope_dtype: "float32" (or wider, as the parameters), or "bfloat16".
      ffn: "mlp" or "swiglu".
      qkv_bias: "full", "masked_key" or "none", see `Block`.
      qk_norm: whether each head's queries and keys are normalised.
      norm_kind: "layer" or "rms".
      norm_eps: added to the variance by the norms.
      untie_class_norm: whether class token and registers have a last norm of their own.
      untie_local_norm: whether they have, in local views of training.
      kernels: that may compute the blocks; with "packing", sequences are brought to lengths that
        a TPU likes. The outputs are the same.
      remat: "none", or what of each block is kept for the backward pass: "dots", the outputs of
        its linear layers, or "blocks", its input only.
      scan_blocks: whether one loop runs all blocks, so that one block is compiled and not
        `depth`; the parameters are the same tree either way.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    arch = "vit"
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    layer_scale: float
    grid: tuple[int, int]
    hidden_dim: int = 0
    registers: int = 0
    positions: str = "learned"
    pos_offset: float = 0.1
    pos_antialias: bool = False
    rope_base: float = 100.0
    rope_min_period: float = 0.0
    rope_max_period: float = 0.0
    rope_coordinates: str = "separate"
    rope_dtype: str = "float32"
    ffn: str = "mlp"
    qkv_bias: str = "full"
    qk_norm: bool = False
    norm_kind: str = "layer"
    norm_eps: float = LAYER_NORM_EPSILON
    untie_class_norm: bool = False
    untie_local_norm: bool = False
    kernels: Kernels = XLA
    remat: str = "none"
    scan_blocks: bool = False
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self):
        patches = PatchEmbed(self.patch_size, self.width, self.dtype, self.param_dtype)
        self.patch_embed = patches
        self.cls_token = self._token("cls_token", normal_init, 1, 1)
        if self.positions == "learned":
            positions = 1 + self.grid[0] * self.grid[1]
            self.pos_embed = self._token("pos_embed", normal_init, 1, positions)
        self.mask_token = self._token("mask_token", nn.initializers.zeros, 1)
        if self.registers:
            self.register_tokens = self._token("register_tokens", normal_init, 1, self.registers)
        self.blocks = [self._block() for _ in range(self.depth)]
        self.last_norm = self._norm("norm")
        own = {"class_norm": self.untie_class_norm, "local_class_norm": self.untie_local_norm}
        self.class_norms = [self._norm(name) for name, untied in own.items() if untied]

    def _token(self, name: str, init: nn.initializers.Initializer, *shape: int) -> Array:
        return self.param(name, init, (*shape, self.width), self.param_dtype)

    def _norm(self, name: str) -> Norm:
        return Norm(self.norm_kind, self.norm_eps, self.dtype, self.param_dtype, name=name)

    def _block(self, **kwargs) -> Block:
        return Block(
            heads=self.heads,
            hidden_dim=geometry_of(self).hidden[0],
            layer_scale=self.layer_scale,
            norm=self.norm_kind,
            norm_eps=self.norm_eps,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            ffn=self.ffn,
            rotary=self.positions == "rotary",
            kernels=self.kernels,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            **kwargs,
        )

    def __call__(
        self,
        images: Array,
        masks: Array | None = None,
        gains: Array | None = None,
        rope_noise: Array | None = None,
        local: bool = False,
    ) -> Tokens:
        """Computes the normalised output tokens, of `dtype`.

        Args:
          images: [B, H, W, C] floating, normalised; rows and columns that do not fill a patch
            are cut off.
          masks: [B, h, w] bool, True where the mask token replaces the patch; or None.
          gains: [B, depth, 2] of stochastic depth, see `drop_path_gains`; None is 1.
          rope_noise: [depth, 2, 2] of training, see `rope.draw_noise`; None leaves it out.
          local: whether these are local views of training.
        """
        given = dict(images=images, masks=masks, gains=gains, rope_noise=rope_noise, local=local)
        return self.together([given])[0]

    def together(self, several: Sequence[dict[str, Any]]) -> list[Tokens]:
        """Computes the output tokens of several calls.

        Each block sees them all, one after the other, so that its parameters are gathered once.

        Args:
          several: the arguments of each call by name, {"images": [B, H, W, C], ...}; B, H and W may
            differ.

        Returns:
          What each call would have.
        """
        outputs = self._run_blocks([self._sequences(call) for call in several])
        return [
            self._tokens(x, call["images"], call.get("local", False))
            for x, call in zip(outputs, several, strict=True)
        ]

    def layers(
        self,
        images: Array,
        wanted: Sequence[int],
        normalized: bool = True,
        gains: Array | None = None,
    ) -> tuple[Tokens, ...]:
        """Returns the tokens of the wanted blocks, which count from 0, in that order.

        All are normalised by the last norm, or none. `gains` as of a call.
        """
        x, rotation = self._embed(images, None), self._rotation(images)
        outputs = {}
        for number, block in enumerate(self.blocks):
            own = None if gains is None else gains[:, number].T[..., None, None]
            x = block(x, own, rotation=rotation)
            if number in wanted:
                outputs[number] = self._tokens(x, images, normalized=normalized)
        return tuple(outputs[number] for number in wanted)

    def attention(self, images: Array) -> Attention:
        """Returns the attention weights of the last block, and its keys."""
        x, rotation = self._embed(images, None), self._rotation(images)
        for block in self.blocks[:-1]:
            x = block(x, rotation=rotation)
        weights, keys = self.blocks[-1](x, rotation=rotation, only_attention=True)
        cls = weights[:, :, 0, 1 + self.registers :]
        cls = cls.reshape(*weights.shape[:2], *self._grid(images))
        return Attention(cls, weights, self._tokens(keys, images, normalized=False).patches)

    def _tokens(
        self, x: Array, images: Array, local: bool = False, normalized: bool = True
    ) -> Tokens:
        """Normalises the tokens of a layer [B, T, D], and names them."""
        if not normalized:
            return Tokens(x, self._grid(images), self.registers)
        of_class = self.last_norm
        if self.untie_class_norm:
            of_class = self.class_norms[0]
        if self.untie_local_norm and local:
            of_class = self.class_norms[-1]
        if of_class is self.last_norm:
            x = of_class(x)
        else:
            others = 1 + self.registers
            parts = of_class(x[:, :others]), self.last_norm(x[:, others:])
            x = jnp.concatenate(parts, axis=1)
        return Tokens(x, self._grid(images), self.registers)

    def _grid(self, images: Array) -> tuple[int, int]:
        return geometry_of(self).grid(images.shape[1:3])

    def _rotation(self, images: Array, noise: Array | None = None) -> Array | None:
        """Returns the rotation of all blocks, or with noise of each, [depth, ...]."""
        if self.positions != "rotary":
            return None
        rope = Rope(
            head_dim=self.width // self.heads,
            base=self.rope_base,
            periods=(self.rope_min_period, self.rope_max_period) if self.rope_max_period else (),
            coordinates=self.rope_coordinates,
        )
        dtype = jnp.bfloat16 if self.rope_dtype == "bfloat16" else self.param_dtype
        table = functools.partial(rope.table, self._grid(images), dtype)
        return table() if noise is None else jax.vmap(table)(noise)

    def _sequences(self, call: dict[str, Any]) -> Sequences:
        """Returns the tokens of a call, embedded; its arguments are those of `__call__`."""
        images, gains = call["images"], call.get("gains")
        if gains is not None:
            gains = gains.transpose(1, 2, 0)[..., None, None]
        rotation = self._rotation(images, call.get("rope_noise"))
        return Sequences(self._embed(images, call.get("masks")), gains, rotation)

    def _run_blocks(self, several: list[Sequences]) -> list[Array]:
        """Returns what becomes of each [B, T, D]."""
        if self.is_initializing():
            (one,) = several
            x = one.x
            for block in self.blocks:
                x = block(x, rotation=one.rotation)
            for norm in self.class_norms:
                norm(x)
            return [x]

        outputs = self._run_sequences([self._packed(one) for one in several])
        return [
            x if x.shape == one.x.shape else packing.unpack(x, *one.x.shape[:2])
            for x, one in zip(outputs, several, strict=True)
        ]

    def _packed(self, one: Sequences) -> Sequences:
        """Brings sequences to lengths that a TPU likes, if it is one."""
        spec = PackingSpec(self._block(parent=None).attention_spec(one.x.shape))
        if not self.kernels.first(spec, packing):
            return one
        tokens, gains = one.x.shape[1], one.gains
        if gains is not None:
            shape = (*gains.shape[:3], tokens, 1)
            gains = jax.vmap(jax.vmap(packing.pack))(jnp.broadcast_to(gains, shape))
        return Sequences(packing.pack(one.x), gains, None, packing.owners(tokens))

    def _run_sequences(self, several: list[Sequences]) -> list[Array]:
        def run_block(all_x, of_block):
            params, own = of_block
            params, block = gather(params, self.dtype), self._block(parent=None)
            outputs = []
            for one, x, (gains, rotation) in zip(several, all_x, own, strict=True):
                turned = one.rotation if rotation is None else rotation
                x = start_of_block(x)
                outputs.append(block.apply({"params": params}, x, gains, one.owners, turned))
            return outputs, None

        if self.remat != "none":
            run_block = jax.checkpoint(run_block, policy=REMAT_POLICIES[self.remat])
        all_x, own = [one.x for one in several], [one.by_block() for one in several]
        params = [block.variables["params"] for block in self.blocks]
        if self.scan_blocks:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self._cast, params))
            return jax.lax.scan(run_block, all_x, (stacked, own))[0]
        for number in range(self.depth):
            of_block = [[None if x is None else x[number] for x in one] for one in own]
            all_x, _ = run_block(all_x, (params[number], of_block))
        return all_x

    def _cast(self, params: dict) -> dict:
        """Casts kernels as their layers will, so that a stack of them is no larger than needed.

        Shards stay as they are: they are small, and their gradients are summed as they come.
        """

        def cast(x: Array | Shard) -> Array | Shard:
            return x if is_shard(x) or x.ndim < 2 else x.astype(self.dtype)

        return jax.tree.map(cast, params, is_leaf=is_shard)

    def _embed(self, images: Array, masks: Array | None) -> Array:
        x = self.patch_embed(images)  # [B, h, w, D]
        batch, rows, columns, width = x.shape
        if masks is not None:
            x = jnp.where(masks[..., None], self.mask_token.astype(self.dtype), x)
        x = x.reshape(batch, rows * columns, width)
        cls = jnp.broadcast_to(self.cls_token.astype(self.dtype), (batch, 1, width))
        if self.positions != "learned":
            return jnp.concatenate([cls, *self._register_tokens(batch), x], axis=1)
        positions = resample_positions(
            self.pos_embed, self.grid, (rows, columns), self.pos_offset, self.pos_antialias
        ).astype(self.dtype)
        if not self.registers:
            return jnp.concatenate([cls, x], axis=1) + positions
        cls, x = cls + positions[:, :1], x + positions[:, 1:]
        return jnp.concatenate([cls, *self._register_tokens(batch), x], axis=1)

    def _register_tokens(self, batch: int) -> list[Array]:
        if not self.registers:
            return []
        tokens = self.register_tokens.astype(self.dtype)
        return [jnp.broadcast_to(tokens, (batch, *tokens.shape[1:]))]
