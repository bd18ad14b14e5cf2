"""The slow tests in parts, of which `.ci/run` takes one."""

import collections


def pytest_addoption(parser):
    parser.addoption(
        "--slow-part",
        type=lambda text: tuple(map(int, text.split("/"))),
        default=(0, 1),
        metavar="I/N",
        help="run one of N parts of the slow tests, I from 0 to N - 1, beside all others",
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out the other parts of the slow tests; files that have the most are begun first."""
    part, parts = config.getoption("--slow-part")
    slow = [item for item in items if item.get_closest_marker("slow")]
    left_out = {item.nodeid for number, item in enumerate(slow) if number % parts != part}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]
    number = collections.Counter(item.path for item in slow if item.nodeid not in left_out)
    items.sort(key=lambda item: -number[item.path])
