"""No block of twelve lines stands twice in the package."""

import collections
import pathlib

PACKAGE = pathlib.Path(__file__).parent.parent / "ibot_jax"
LINES = 12


def lines_of(path):
    """Returns (number, text) of the lines that say something: no blank ones, no imports."""
    stripped = enumerate(map(str.strip, path.read_text().splitlines()), 1)
    return [
        (number, text)
        for number, text in stripped
        if text and not text.startswith(("import ", "from ", "#"))
    ]


def clones(files, size=LINES):
    """Returns the places, "PATH:NUMBER", of blocks of `size` lines that stand more than once."""
    places = collections.defaultdict(list)
    for path in files:
        lines = lines_of(path)
        for start in range(len(lines) - size + 1):
            block = tuple(text for _, text in lines[start : start + size])
            places[block].append(f"{path}:{lines[start][0]}")
    return [found for found in places.values() if len(found) > 1]


def test_no_block_stands_twice():
    assert not clones(sorted(PACKAGE.rglob("*.py")))


def test_a_block_that_stands_twice_is_found(tmp_path):
    block = "\n\n".join(f"    x{number} = {number}" for number in range(LINES))
    (tmp_path / "a.py").write_text(f"import os\n{block}\ny = 1\n")
    (tmp_path / "b.py").write_text(f"z = 2\nif z:\n    {block}\n")
    files = sorted(tmp_path.iterdir())
    assert clones(files) == [[f"{files[0]}:2", f"{files[1]}:3"]]
    assert not clones(files, LINES + 1)
