"""Models on Hugging Face's hub, hf://ORG/NAME or hf://ORG/NAME@REVISION, as folders on the disk."""

import functools
import re
import types

from etils import epath

from ibot_jax.errors import UserError

_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?/?")
# Weights in safetensors where there are any, else what torch.save wrote.
_DESCRIBING = ["*.json", "README.md", "LICENSE*"]
_WEIGHTS = (["*.safetensors"], ["*.bin", "*.pth"])


def is_on_hub(path: str) -> bool:
    """Returns whether a path that a user gives is one of the hub's."""
    return path.startswith("hf://")


@functools.cache  # a branch may move between two looks at it
def fetch(address: str) -> epath.Path:
    """Returns the folder of a model of the hub, fetched if it is not there already.

    Its name is the revision: the hash of a commit, whatever branch or tag the address names.

    Args:
      address: hf://ORG/NAME, or with @REVISION.

    Raises:
      UserError: if there is no such model, it is not to be had, or the hub does not answer.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise UserError(f"{address} is no hf://ORG/NAME or hf://ORG/NAME@REVISION")
    hub = _import_hub()
    for weights in _WEIGHTS:
        try:
            folder = hub.snapshot_download(
                match["name"], revision=match["revision"], allow_patterns=_DESCRIBING + weights
            )
        except Exception as error:  # of the hub's library, and of the one that it asks the net by
            raise UserError(f"{address} {_reason(hub, error, match['name'])}") from None
        folder = epath.Path(folder)
        if any(path for pattern in weights for path in folder.glob(pattern)):
            break
    return folder


def _reason(hub: types.ModuleType, error: Exception, name: str) -> str:
    errors = hub.errors
    if isinstance(error, errors.GatedRepoError):
        return (
            f"is gated: accept its terms at https://huggingface.co/{name}, and log in (hf auth "
            "login, or the variable HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "has no such revision; give a branch, a tag or a commit of it, or none"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is not on the hub, or is private; look at the name, or log in (hf auth login)"
    said = str(error).strip().partition("\n")[0]
    return (
        f"cannot be fetched ({type(error).__name__}: {said}); without a network, give a "
        "folder that holds its files"
    )


def _import_hub() -> types.ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError(
            "hf:// needs a package that is not here: pip install ibot-jax[hub]"
        ) from None
    return huggingface_hub
