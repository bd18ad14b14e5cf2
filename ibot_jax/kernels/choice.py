"""Which implementations a program may take."""

import dataclasses
from types import ModuleType

from ibot_jax.kernels.devices import Device, device_at_hand
from ibot_jax.kernels.specs import Spec

# Modules of this folder by platform, each of which says `supports(spec, device)`. All compute but
# for "packing", which lays sequences out for those that do, and for XLA.
IMPLEMENTATIONS = {
    "gpu": ("cudnn",),
    "tpu": (
        "packing",
        "tpu.attention",
        "tpu.long_attention",
        "tpu.attention_branch",
        "tpu.mlp",
        "tpu.colors",
    ),
}
_PLATFORM = {"cudnn": "gpu", "pallas": "tpu"}  # of the words that a config has beside "auto"


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The implementations that a program may take, and its device; without any, XLA computes all.

    Attributes:
      names: of the implementations, modules of this folder.
      device: theirs.
      uses: where a list, is appended (name, specification) of each one that is taken.
    """

    names: tuple[str, ...] = ()
    device: Device = dataclasses.field(default_factory=Device)
    uses: list[tuple[str, Spec]] | None = dataclasses.field(default=None, compare=False)

    def first(self, spec: Spec, *implementations: ModuleType) -> ModuleType | None:
        """Returns the first of some implementations that may be taken; None leaves it to XLA."""
        for implementation in implementations:
            name = implementation.__name__.partition(".kernels.")[2]
            if name in self.names and implementation.supports(spec, self.device):
                if self.uses is not None:
                    self.uses.append((name, spec))
                return implementation
        return None

    def without(self, *names: str) -> "Kernels":
        """Returns these but for some."""
        kept = tuple(name for name in self.names if name not in names)
        return dataclasses.replace(self, names=kept)


XLA = Kernels()


def choose(wanted: str, device: Device, uses: list[tuple[str, Spec]] | None = None) -> Kernels:
    """Returns the kernels by a config's word, `model.kernels`; they take what they support.

    "auto" are all for the device; "cudnn" are the same on a GPU and "pallas" on a TPU, else none;
    "xla" are none anywhere.
    """
    if wanted not in ("auto", *(word for word, own in _PLATFORM.items() if own == device.platform)):
        return Kernels((), device, uses)
    return Kernels(IMPLEMENTATIONS.get(device.platform, ()), device, uses)


def choose_at_hand(wanted: str) -> Kernels:
    """Returns the kernels by a config's word for a program that XLA may take apart, here."""
    return choose(wanted, device_at_hand())
