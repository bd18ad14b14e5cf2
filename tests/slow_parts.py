"""The slow tests in parts, of which `.ci/run` takes one."""

import collections


def pytest_addoption(parser):
    parser.addoption(
        "--slow-part",
        type=lambda text: tuple(map(int, text.split("/"))),
        default=(0, 1),
        metavar="I/N",
        help="run the slow tests of every N-th file, from the I-th on, beside all quick ones",
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out the other files' slow tests; files that have the most are begun first."""
    part, parts = config.getoption("--slow-part")
    slow = [item for item in items if item.get_closest_marker("slow")]
    # Of a file all or none: its tests share what they make.
    files = list(dict.fromkeys(item.path for item in slow))[part::parts]
    left_out = {item.nodeid for item in slow if item.path not in files}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]
    number = collections.Counter(item.path for item in slow if item.path in files)
    items.sort(key=lambda item: -number[item.path])
