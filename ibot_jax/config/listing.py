"""The keys of a config in words: `--help=config`, and the names of all by section."""

import textwrap
from collections.abc import Mapping
from typing import Any

from ibot_jax.config.keys import Keys, Kind


def listing(keys: Keys, sections: Mapping[str, str]) -> str:
    """Returns all keys in words: a line with the default, then meaning and range.

    Args:
      keys: to list.
      sections: of what each section, "" for no section, speaks.
    """
    lines = []
    for section, about in sections.items():
        lines += ["", f"{section or 'the run'}: {about}"]
        for name, key in _of_section(keys, section).items():
            free = "" if key.kind is Kind.LEARNED else "a resumed run may change it"
            about = "; ".join(filter(None, (key.meaning, str(key.takes), free)))
            lines.append(f"  --config.{name}={_shown(key.default)}")
            lines += textwrap.wrap(about, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines[1:])


def _of_section(keys: Keys, section: str) -> Keys:
    return {name: key for name, key in keys.items() if name.rpartition(".")[0] == section}


def groups(keys: Keys, sections: Mapping[str, str]) -> str:
    """Returns the names of all keys by section; arguments as of `listing`."""
    lines = ["Keys of the config:"]
    for section, about in sections.items():
        names = map(_leaf, _of_section(keys, section))
        lines += ["", f"  {section or 'the run'}: {about}"]
        lines += textwrap.wrap(
            ", ".join(names), 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """Returns a value as one writes it in a shell."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"'({','.join(f'{entry:.4g}' for entry in value)}{',' * (len(value) == 1)})'"
    return f'"{value}"' if isinstance(value, str) else f"{value:.12g}"


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]
