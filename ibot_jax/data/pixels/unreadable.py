"""Images that cannot be read, and why, in words for people."""


class UnreadableImage(Exception):
    """An image that cannot be read; the message says why, in words for people."""


def in_words(error: Exception) -> str:
    """Returns why an image cannot be read, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UnreadableImage) else f"{type(error).__name__}: {text}"


def missing(package: ImportError, kind: str, extra: str) -> UnreadableImage:
    """Returns the error that says which extra reads a kind of file."""
    return UnreadableImage(f"{kind} needs {package.name}: pip install 'ibot-jax[{extra}]'")
