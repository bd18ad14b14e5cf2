"""What lies beside weights and says under which licence they are."""

import re

from etils import epath

_CARDS, _LICENCES = ("README.md",), ("LICENSE", "LICENSE.md", "LICENSE.txt")
_MOST = 2**20  # bytes that are looked at
# Of YAML: a scalar or a list on the line of the key, or a list on the lines below.
_FIELD = re.compile(r"^(license\w*):( [^\n]*)?((?:\n *- [^\n]*)*)\n", re.MULTILINE)


def licence_beside(path: epath.Path) -> str:
    """Returns the licence of the weights in a file or folder; "" if nothing says it.

    That is what the header of a model card says, or else the first line of a LICENSE.
    """
    folder, cards = (path, _CARDS) if path.is_dir() else (path.parent, (f"{path.name}.md", *_CARDS))
    for name in cards:
        header = re.match(r"---\n(.*?\n)---", _text(folder / name), re.DOTALL)
        fields = {
            name: line + lines for name, line, lines in _FIELD.findall(header[1] if header else "")
        }
        said = _listed(fields.get("license", ""))
        said = _listed(fields.get("license_name", said)) if said == "other" else said
        if said:
            return said
    for name in _LICENCES:
        lines = [line.strip(" #*\t") for line in _text(folder / name).splitlines()]
        if any(lines):
            return next(filter(None, lines))[:100]
    return ""


def _listed(value: str) -> str:
    """Returns a scalar of YAML, or the entries of a list in either of its notations."""
    entries = (entry.strip(" -\"'") for entry in re.split(r"[\n,]", value.strip(" []")))
    return ", ".join(filter(None, entries))


def _text(path: epath.Path) -> str:
    if not path.exists():
        return ""
    return path.read_bytes()[:_MOST].decode(errors="replace").replace("\r\n", "\n")
