"""The training step of a linear segmentation head in plain PyTorch, on a frozen backbone.

A program of its own, as `torch_step.py`, whose backbone it has:

    python torch_segmentation.py SPEC.npz

SPEC.npz holds `spec`, a JSON text (see `Spec`), `images` [S, B, H, W, 3] uint8 and `labels`
[S, B, H, W] uint8 of S batches; tensors under their names replace random ones.

The head is that of DINOv2's evaluation in mmsegmentation: BatchNorm, a 1x1 convolution, logits
enlarged bilinearly to the size of the images, and their cross-entropy, averaged over all pixels.
"""

import dataclasses
import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_step import Backbone, BackboneSpec, products, serve

_IGNORED = 255


@dataclasses.dataclass(frozen=True)
class Spec(BackboneSpec):
    """Sizes and constants of a step.

    Attributes:
      blocks: those whose patches are concatenated, from 0.
      last_norm: whether the backbone's last norm is applied to them.
      batch_norm: whether features are normalised by their statistics.
      mean: of the channels of an image from 0 to 1, and their deviations `std`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    blocks: tuple[int, ...]
    last_norm: bool
    batch_norm: bool
    classes: int
    lr: float
    weight_decay: float


class Features(Backbone):
    """The patches of some blocks, [B, 3, H, W] to [B, F, h, w]."""

    def __init__(self, spec: Spec):
        super().__init__(spec)
        self.wanted, self.last_norm = spec.blocks, spec.last_norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = tuple(side // self.patch_size for side in x.shape[-2:])
        x, found = self.embed(x), {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.wanted:
                found[number] = (self.norm(x) if self.last_norm else x)[:, 1:]
        return (
            torch.cat([found[number] for number in self.wanted], dim=-1)
            .transpose(1, 2)
            .unflatten(2, grid)
        )


class Head(nn.Module):
    """Features [B, F, h, w] to logits [B, C, h, w]."""

    def __init__(self, spec: Spec):
        super().__init__()
        features = spec.width * len(spec.blocks)
        self.norm = nn.BatchNorm2d(features) if spec.batch_norm else nn.Identity()
        self.conv = nn.Conv2d(features, spec.classes, 1)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


class Step:
    """Backbone, head and optimiser; a call is a training step of the head."""

    def __init__(self, spec: Spec, device: torch.device):
        self.spec, self.device = spec, device
        self.backbone = Features(spec).to(device).eval().requires_grad_(False)
        self.head = Head(spec).to(device).train()
        self.of_backbone, fused = self.backbone, {}
        if spec.style == "best":
            self.of_backbone, fused = torch.compile(self.backbone), {"fused": True}
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, **fused
        )
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None] for values in (spec.mean, spec.std)
        )

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Runs a step.

        Args:
          images: [B, H, W, 3] uint8.
          labels: [B, H, W] uint8, 255 where a pixel does not count.

        Returns:
          The loss, a scalar.
        """
        with torch.no_grad(), products(self.spec.dtype, self.device):
            pixels = images.permute(0, 3, 1, 2) / 255
            features = self.of_backbone((pixels - self.mean) / self.std)
        logits = F.interpolate(self.head(features.float()), labels.shape[1:], mode="bilinear")
        right = labels.long()
        loss = F.cross_entropy(logits, right, ignore_index=_IGNORED, reduction="none").mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def load(path: str, device: torch.device) -> tuple[Step, list[tuple[torch.Tensor, ...]]]:
    """Returns a step and its batches, as a file (see above) has them."""
    with np.load(path) as file:
        arrays = dict(file)
    values = json.loads(str(arrays.pop("spec")))
    spec = Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    given = [torch.from_numpy(arrays.pop(name)).to(device) for name in ("images", "labels")]
    torch.manual_seed(0)
    step = Step(spec, device)
    for name, module in (("backbone", step.backbone), ("head", step.head)):
        own = {k: torch.from_numpy(x) for k, x in arrays.items() if k.startswith(f"{name}.")}
        if own:
            module.load_state_dict({k.removeprefix(f"{name}."): x for k, x in own.items()})
    return step, list(zip(*given, strict=True))


if __name__ == "__main__":
    serve(sys.argv[1], load)
