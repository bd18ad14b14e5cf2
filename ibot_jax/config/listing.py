"""The keys of a config in words: for `--help`, `--help=config` and docs/config.md."""

import textwrap
from collections.abc import Mapping
from typing import Any

from ibot_jax.config.keys import Key, Keys, Kind, type_name

KINDS = {
    Kind.LEARNED: "what is learned: a resumed run may not change it",
    Kind.EXECUTED: "how it is computed: a resumed run may change it, exports leave it out",
    Kind.REPORTED: "what is measured and kept: a resumed run may change it",
}
_WIDTH = 92


def listing(keys: Keys, sections: Mapping[str, str]) -> str:
    """Returns all keys for the screen: a line with the default, then kind, meaning and range.

    Args:
      keys: to list.
      sections: of what each section, "" for no section, speaks.
    """
    lines = ["Each key is one of three kinds:"]
    lines += [f"  {f'[{kind.value}]':<11}{about}" for kind, about in KINDS.items()]
    for section, about in sections.items():
        lines += ["", f"{section or 'the run'}: {about}"]
        for name, key in _of_section(keys, section).items():
            about = "; ".join(filter(None, (key.meaning, str(key.takes))))
            lines.append(f"  --config.{name}={_shown(key.default)}")
            lines += _wrapped(f"[{key.kind.value}] {about}")
    return "\n".join(lines)


def groups(keys: Keys, sections: Mapping[str, str]) -> str:
    """Returns the names of all keys by section; arguments as of `listing`."""
    lines = ["Keys of the config:"]
    for section, about in sections.items():
        names = (name.rpartition(".")[2] for name in _of_section(keys, section))
        lines += ["", f"  {section or 'the run'}: {about}", *_wrapped(", ".join(names))]
    return "\n".join(lines)


def tables(keys: Keys, sections: Mapping[str, str]) -> str:
    """Returns all keys as Markdown, a table for each section; arguments as of `listing`."""
    blocks = []
    for section, about in sections.items():
        blocks += [f"### {f'`{section}`' if section else 'The run'}: {about}", ""]
        blocks += ["| key | default | kind | meaning | takes |", "| --- | --- | --- | --- | --- |"]
        blocks += [_row(name, key) for name, key in _of_section(keys, section).items()] + [""]
    return "\n".join(blocks)


def _row(name: str, key: Key) -> str:
    takes = str(key.takes) or type_name(key.default)
    cells = f"`{name}`", f"`{_shown(key.default)}`", key.kind.value, key.meaning, takes
    return f"| {' | '.join(cells)} |"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _of_section(keys: Keys, section: str) -> Keys:
    return {name: key for name, key in keys.items() if name.rpartition(".")[0] == section}


def _shown(value: Any) -> str:
    """Returns a value as one writes it in a shell."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"'({','.join(f'{entry:.4g}' for entry in value)}{',' * (len(value) == 1)})'"
    return f'"{value}"' if isinstance(value, str) else f"{value:.12g}"
