"""What functions below a run take of its config: a section, not the whole.

Builders of a whole training take all sections at once, which is a section of sections.
"""

from typing import Any, Protocol


class Section(Protocol):
    """A section of a config: its values as attributes."""

    def __getattr__(self, name: str) -> Any:
        """Returns the value of a key of the section."""
