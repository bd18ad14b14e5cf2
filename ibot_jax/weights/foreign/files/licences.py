"""What lies beside weights and says under which licence they are."""

import re

from etils import epath

_CARDS, _LICENCES = ("README.md",), ("LICENSE", "LICENSE.md", "LICENSE.txt")
_MOST = 2**20  # characters that are looked at


def licence_beside(path: epath.Path) -> str:
    """Returns the licence of the weights in a file or folder; "" if nothing says it.

    That is the field of the header of a model card, or else the first line of a LICENSE.
    """
    folder, cards = (path, _CARDS) if path.is_dir() else (path.parent, (f"{path.name}.md", *_CARDS))
    for name in cards:
        header = re.match(r"---\n(.*?)\n---", _text(folder / name), re.DOTALL)
        fields = dict(re.findall(r"^(license\w*): *(.+?) *$", header[1] if header else "", re.M))
        said = fields.get("license", "").strip("\"'")
        said = fields.get("license_name", said).strip("\"'") if said == "other" else said
        if said:
            return said
    for name in _LICENCES:
        lines = [line.strip(" #*\t") for line in _text(folder / name).splitlines()]
        if any(lines):
            return next(filter(None, lines))[:100]
    return ""


def _text(path: epath.Path) -> str:
    return path.read_bytes()[:_MOST].decode(errors="replace") if path.exists() else ""
