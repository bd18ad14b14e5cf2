"""Writes a model as StableHLO, which runs wherever XLA does, without this package.

The program takes uint8 images [B, H, W, C] of the size that the model was trained for, B being
whatever it is called with, and returns {"class": [B, D], "patch": [B, N, D]} float32; of a
fine-tuned model with its classifier {"logits": [B, K]}. What an evaluation trained for pixels has
a program of its own. The weights are constants in it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params
from ibot_jax.weights.description import described_config
from ibot_jax.weights.finetuned import Described
from ibot_jax.weights.foreign.read import Found
from ibot_jax.weights.foreign.write import MakeCard
from ibot_jax.weights.hashes import flat_tensors
from ibot_jax.weights.model import Model
from ibot_jax.weights.quoting import quoted
from ibot_jax.weights.write import written

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(target: epath.Path, found: Found, make_card: MakeCard) -> None:
    """Writes what jax.export.deserialize reads.

    Raises:
      UserError: if the weights are too large for such a file, 2 GiB.
    """
    (params,) = (jax.tree.map(np.asarray, params) for params in found.params.values())
    config = described_config(found.description, target.name)
    config.dtype = "float32"
    config.model.kernels = "xla"  # what runs on every platform
    classifier = found.description.get("classifier")
    model = Model(config, target.name, classifier=classifier)

    def outputs(images: jax.Array) -> dict[str, jax.Array]:
        if classifier:
            return {"logits": model.class_logits(params, images)}
        tokens = model.features(params, images)
        patches = tokens.patches.reshape(images.shape[0], -1, tokens.patches.shape[-1])
        return {"class": tokens.cls, "patch": patches}

    size = tuple(config.data.global_size)
    shown = _shown(classifier)
    write_program(target, outputs, size, config.data.channels, params, make_card, shown)


def write_program(
    target: epath.Path,
    outputs: Callable[[jax.Array], Mapping[str, jax.Array]],
    size: tuple[int, int],
    channels: int,
    params: Params,
    make_card: MakeCard,
    shown: str,
    **of_card: Any,
) -> None:
    """Writes a function of images and its card.

    Args:
      target: the file.
      outputs: images [B, *size, channels] uint8 -> arrays by name.
      size: height and width of the images.
      channels: of the images.
      params: what the card is of, as `ibot_jax.load` reads it; NumPy arrays.
      make_card: see `card.make_card`.
      shown: Python that shows `found`, the outputs.
      **of_card: further arguments of `make_card`.

    Raises:
      UserError: if the weights are too large for such a file, 2 GiB.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *size, channels), jnp.uint8)
    exported = jax.export.export(jax.jit(outputs), platforms=PLATFORMS)(images)
    try:
        content = exported.serialize()
    except Exception as error:  # of flatbuffers
        raise UserError(
            f"--to=stablehlo: the program with its weights cannot be one file ({error}); choose "
            "another format"
        ) from error
    head = ", head=True" if len(params) > 1 else ""
    text = make_card(
        tensors=flat_tensors(params),
        reading="""
            # The weights are constants of the program; this hashes what they were made of.
            import flax.traverse_util
            import ibot_jax

            _, params = ibot_jax.load("SOURCE"{head})
            tensors = flax.traverse_util.flatten_dict(params, sep=".")
            """.replace("{head}", head),
        usage=f"{USAGE.format(name=quoted(target.name))}    {shown}\n",
        library="jax",
        **of_card,
    )
    with written(target, text) as file:
        file.write(content)


def _shown(classifier: Described | None) -> str:
    """Returns Python that shows what the program of a model gives."""
    if classifier is None:
        return 'print(found["class"].shape, found["patch"].shape)'
    if classifier["names"] is None:
        return 'print(found["logits"].argmax(axis=1))'
    names = ", ".join(map(quoted, classifier["names"]))
    return f'print([[{names}][k] for k in found["logits"].argmax(axis=1)])'


USAGE = """
    import jax
    import jax.export
    import numpy as np

    with open({name}, "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    images = np.zeros((5, *program.in_avals[0].shape[1:]), np.uint8)  # any number of them
    found = jax.jit(program.call)(images)
"""
