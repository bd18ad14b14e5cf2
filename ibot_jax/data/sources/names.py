"""Lists of names, such as paths in a folder: millions of them fit in little memory."""

import os
from array import array
from collections.abc import Iterable


class Names:
    """Names in one block of bytes, each of which is found in no time."""

    def __init__(self, names: Iterable[str] = ()):
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self.extend(names)

    def extend(self, names: Iterable[str]) -> int:
        """Appends names; returns how many they were."""
        before = len(self)
        for name in names:
            self._bytes += os.fsencode(name)
            self._ends.append(len(self._bytes))
        return len(self) - before

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if index >= len(self):
            raise IndexError(index)
        return os.fsdecode(bytes(self._bytes[self._ends[index] : self._ends[index + 1]]))
