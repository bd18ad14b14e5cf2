"""The table of sources and features in docs/data.md is what the tests of sources run over."""

import pathlib

from archived import ALL, INDEXED, OF_CLASSES, OF_URLS

DOCS = pathlib.Path(__file__).parents[3] / "docs/data.md"
# By the beginning of a row, the kinds over which its test is parametrized.
ROWS = {
    "the images, order": ALL,  # test_shards.py, test_they_are_the_images_of_the_folder
    "its losses": ALL,  # runs/test_sources.py, test_losses_are_those_of_the_folder
    "in a mixture": ALL,  # runs/test_sources.py, test_a_run_that_is_killed_goes_on_bit_for_bit
    "what is broken": ALL,  # test_broken.py
    "memory": ALL,  # test_shards.py, test_memory_stays_what_it_was
    "behind": OF_URLS,  # test_urls.py, test_they_are_the_images_of_the_folder
    "an index": INDEXED,  # test_shards.py, test_an_index_is_kept
    "the first images": OF_CLASSES,  # test_shards.py, test_the_first_of_each_class
}


def test_every_cell_of_the_table_is_tested():
    lines = DOCS.read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| | `folder:`"))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[head:]]
    _, *kinds = (cell.strip("`:") for cell in cells[0])
    table = {name: found for name, *found in cells[2 : 2 + len(ROWS)]}
    assert cells[2 + len(ROWS)] == [] and set(kinds) == ALL.keys() - {"webdataset"}
    for name, found in table.items():
        (tested,) = (kinds for begin, kinds in ROWS.items() if name.startswith(begin))
        assert ("webdataset" in tested) == ("tar" in tested)  # both are tars
        assert found == ["yes" if kind in tested else "no" for kind in kinds], name
    assert len(table) == len(ROWS)
