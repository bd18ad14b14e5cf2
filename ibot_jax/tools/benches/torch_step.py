"""The original's training step in plain PyTorch: what `bench versus` times ours beside.

A program of its own, which needs PyTorch and NumPy and nothing of this package, so that any Python
with them can run it:

    python torch_step.py SPEC.npz

SPEC.npz holds `spec`, a JSON text (see `Spec`), and `masks` [S, V, B, h, w] bool, those of S
batches; parameters under their names replace random ones, and `global_views` and `local_views`
[V, B, 3, H, W] random pixels. It prints a line of JSON when it is ready; then it reads lines with a
number of steps, runs these, and prints how long they took.

It computes what the original does, in its way: the heads read every token of every view, the
student sees its global views once and its local ones once (`main_ibot.py`, `train_one_epoch`), and
its parts have the original's names. What is not in it takes no time there: schedules, logging, the
scaler of losses (bfloat16 needs none).
"""

import contextlib
import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """What every step here has.

    Attributes:
      style: "original", as its code has it; or "best", with what PyTorch has to offer since: fused
        attention, a compiled model, a fused optimiser, the teacher in one call.
      dtype: of products: "float32" or "bfloat16", by autocasting.
    """

    style: str
    dtype: str
    width: int
    depth: int
    heads: int
    patch_size: int
    mlp_ratio: float
    drop_path: float
    global_size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Spec(BackboneSpec):
    """Sizes and constants of a step of pre-training."""

    batch_size: int
    local_size: tuple[int, int]
    global_views: int
    local_views: int
    hidden_dim: int
    bottleneck_dim: int
    prototypes: int
    shared: bool
    norm_last_layer: bool
    class_weight: float
    patch_weight: float
    student_temp: float
    teacher_temp: float
    teacher_patch_temp: float
    center_momentum: float
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    clip: float
    momentum: float


class Attention(nn.Module):
    """Self-attention over tokens, [B, T, D] to [B, T, D]."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.heads, self.fused = spec.heads, spec.style == "best"
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            weights = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
            mixed = weights.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The feed-forward network of a block."""

    def __init__(self, spec: Spec):
        super().__init__()
        hidden = int(spec.width * spec.mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(spec.width, hidden), nn.Linear(hidden, spec.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and feed-forward network, each dropped for a share of the views."""

    def __init__(self, spec: Spec, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.norm2 = (nn.LayerNorm(spec.width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(spec), Mlp(spec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._kept(self.attn(self.norm1(x)))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.drop_path == 0:
            return x
        keep = 1 - self.drop_path
        return x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep)


class PatchEmbed(nn.Module):
    """Patches as tokens, [B, 3, H, W] to [B, N, D]."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.proj = nn.Conv2d(3, spec.width, spec.patch_size, spec.patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """A Vision Transformer, [B, 3, H, W] to tokens [B, 1 + N, D], the class token first."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.patch_size = spec.patch_size
        self.grid = tuple(side // spec.patch_size for side in spec.global_size)
        self.patch_embed = PatchEmbed(spec)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, spec.width))
        places = 1 + self.grid[0] * self.grid[1]
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, places, spec.width))
        self.masked_embed = nn.Parameter(torch.zeros(1, spec.width))
        rates = np.linspace(0, spec.drop_path, spec.depth)
        self.blocks = nn.ModuleList(Block(spec, float(rate)) for rate in rates)
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)

    def forward(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(x, masks)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def embed(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the tokens [B, 1 + N, D] that enter the first block."""
        grid = tuple(side // self.patch_size for side in x.shape[-2:])
        x = self.patch_embed(x)
        if masks is not None:
            x = torch.where(masks.flatten(1)[..., None], self.masked_embed.to(x.dtype), x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x + self._positions(grid)

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        if grid == self.grid:
            return self.pos_embed
        patches = self.pos_embed[:, 1:].unflatten(1, self.grid).permute(0, 3, 1, 2)
        scale = tuple((side + 0.1) / own for side, own in zip(grid, self.grid, strict=True))
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
        return torch.cat((self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)), dim=1)


class Prototypes(nn.Module):
    """A linear layer without bias whose weights are directions times norms."""

    def __init__(self, spec: Spec):
        super().__init__()
        bound = spec.bottleneck_dim**-0.5
        self.weight_v = nn.Parameter(
            torch.empty(spec.prototypes, spec.bottleneck_dim).uniform_(-bound, bound)
        )
        self.weight_g = nn.Parameter(
            torch.ones(spec.prototypes, 1), requires_grad=not spec.norm_last_layer
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


class Head(nn.Module):
    """The projection head: tokens [B, 1 + N, D] to logits of class and patch tokens."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(spec.width, spec.hidden_dim),
            nn.GELU(),
            nn.Linear(spec.hidden_dim, spec.hidden_dim),
            nn.GELU(),
            nn.Linear(spec.hidden_dim, spec.bottleneck_dim),
        )
        self.last_layer = Prototypes(spec)
        self.last_layer2 = self.last_layer if spec.shared else Prototypes(spec)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.normalize(self.mlp(tokens), dim=-1)
        return self.last_layer(x[:, 0]), self.last_layer2(x[:, 1:])


class Network(nn.Module):
    """Backbone and head."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.backbone, self.head = Backbone(spec), Head(spec)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(
        self, x: torch.Tensor, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(self.backbone(x, masks))


class Step:
    """Student, teacher, centers and optimiser; a call is a training step."""

    def __init__(self, spec: Spec, device: torch.device):
        self.spec, self.device = spec, device
        self.student = Network(spec).to(device)
        self.teacher = Network(dataclasses.replace(spec, drop_path=0.0)).to(device)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.center, self.patch_center = (
            torch.zeros(spec.prototypes, device=device) for _ in range(2)
        )
        trained = [(name, x) for name, x in self.student.named_parameters() if x.requires_grad]
        plain = [x for name, x in trained if name.endswith(".bias") or x.ndim == 1]
        decayed = [x for name, x in trained if not (name.endswith(".bias") or x.ndim == 1)]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        fused = {"fused": True} if spec.style == "best" else {}
        self.optimizer = torch.optim.AdamW(
            groups, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, **fused
        )
        self.clipped = [x for _, x in trained]
        self.of_student, self.of_teacher = self.student, self.teacher
        if spec.style == "best":
            self.of_student, self.of_teacher = map(torch.compile, (self.student, self.teacher))

    def __call__(
        self, global_views: torch.Tensor, local_views: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Runs a step.

        Args:
          global_views: [G, B, 3, H, W] float32, normalised.
          local_views: [L, B, 3, H', W'] likewise; L may be 0.
          masks: [G, B, h, w] bool.

        Returns:
          The loss, a scalar.
        """
        with products(self.spec.dtype, self.device):
            whole = global_views.flatten(0, 1)
            with torch.no_grad():
                teacher = self.of_teacher(whole)
            student_class, student_patches = self.of_student(whole, masks.flatten(0, 1))
            if len(local_views):
                local_class, _ = self.of_student(local_views.flatten(0, 1))
                student_class = torch.cat((student_class, local_class))
            loss = self._loss(student_class, student_patches, *teacher, masks)
        self.optimizer.zero_grad()
        loss.backward()
        self._clip()
        self.optimizer.step()
        self._move_teacher()
        return loss.detach()

    def _loss(self, student_class, student_patches, teacher_class, teacher_patches, masks):
        spec = self.spec
        views = spec.global_views
        student_class = (student_class.float() / spec.student_temp).chunk(views + spec.local_views)
        student_patches = (student_patches.float() / spec.student_temp).chunk(views)
        teacher_class, teacher_patches = teacher_class.float(), teacher_patches.float()
        targets = ((teacher_class - self.center) / spec.teacher_temp).softmax(-1).chunk(views)
        patch_targets = (teacher_patches - self.patch_center) / spec.teacher_patch_temp
        patch_targets = patch_targets.softmax(-1).chunk(views)

        class_losses, patch_losses = [], []
        for of_teacher in range(views):
            for of_student, logits in enumerate(student_class):
                if of_student != of_teacher:
                    pair = -(targets[of_teacher] * logits.log_softmax(-1)).sum(-1)
                    class_losses.append(pair.mean())
            logits = student_patches[of_teacher].log_softmax(-1)
            each = -(patch_targets[of_teacher] * logits).sum(-1)
            mask = masks[of_teacher].flatten(1).float()
            by_image = (each * mask).sum(-1) / mask.sum(-1).clamp(min=1)
            patch_losses.append(by_image.mean())

        keep = spec.center_momentum
        self.center = keep * self.center + (1 - keep) * teacher_class.mean(0)
        means = teacher_patches.mean(1).mean(0)
        self.patch_center = keep * self.patch_center + (1 - keep) * means
        class_loss = sum(class_losses) / len(class_losses)
        patch_loss = sum(patch_losses) / len(patch_losses)
        return spec.class_weight * class_loss + spec.patch_weight * patch_loss

    def _clip(self) -> None:
        if self.spec.clip == 0:
            return
        if self.spec.style == "best":
            gradients = [x.grad for x in self.clipped]
            factors = torch.stack(torch._foreach_norm(gradients)).add(1e-6).reciprocal()
            factors = factors.mul(self.spec.clip).clamp(max=1)
            torch._foreach_mul_(gradients, list(factors.unbind()))
            return
        for parameter in self.clipped:
            factor = self.spec.clip / (parameter.grad.norm() + 1e-6)
            if factor < 1:
                parameter.grad.mul_(factor)

    @torch.no_grad()
    def _move_teacher(self) -> None:
        teachers, students = (list(x.parameters()) for x in (self.teacher, self.student))
        keep = self.spec.momentum
        if self.spec.style == "best":
            torch._foreach_lerp_(teachers, students, 1 - keep)
            return
        for teacher, student in zip(teachers, students, strict=True):
            teacher.mul_(keep).add_((1 - keep) * student.detach())


def products(dtype: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Lets products be of a dtype, "float32" or "bfloat16"."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def load(path: str, device: torch.device) -> tuple[Step, list[tuple[torch.Tensor, ...]]]:
    """Returns a step and its batches, as a file (see above) has them."""
    with np.load(path) as file:
        arrays = dict(file)
    values = json.loads(str(arrays.pop("spec")))
    spec = Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    masks = torch.from_numpy(arrays.pop("masks")).to(device)
    torch.manual_seed(0)
    views = []
    for kind in ("global", "local"):
        number, size = getattr(spec, f"{kind}_views"), getattr(spec, f"{kind}_size")
        given = arrays.pop(f"{kind}_views", None)
        made = torch.randn(number, spec.batch_size, 3, *size) if given is None else given
        views.append(torch.as_tensor(made).to(device))
    step = Step(spec, device)
    for network in (step.student, step.teacher):
        if arrays:
            network.load_state_dict({name: torch.from_numpy(x) for name, x in arrays.items()})
        network.train()
    return step, [(*views, mask) for mask in masks]


def serve(path: str, load: Callable[[str, torch.device], tuple[Any, list[tuple]]]) -> None:
    """Gets ready, and runs steps as it is told to.

    Args:
      path: of the file that says which.
      load: (path, device) -> a step, and its batches.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    step, batches = load(path, device)
    done = 0
    loss = step(*batches[0]).item()
    say(
        loss=loss,
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        threads=torch.get_num_threads(),
    )
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            done += 1
            loss = step(*batches[done % len(batches)])
        loss = loss.item()  # waits for the device
        seconds = time.perf_counter() - start
        if on_gpu:
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        say(seconds=seconds, loss=loss, peak_bytes=peak)


def say(**values) -> None:
    """Prints a line of JSON."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], load)
