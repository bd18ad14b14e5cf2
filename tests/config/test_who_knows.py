"""Who knows a whole config: few, and nobody under the run; the others take sections and values."""

import pathlib

PACKAGE = pathlib.Path(__file__).parents[2] / "ibot_jax"
BELOW = ("methods", "losses", "optim", "models", "kernels", "data", "parallel", "files")


def knowers():
    """The modules that name what configs are made of."""
    modules = (path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")))
    marks = "ConfigDict", "ml_collections"
    return [path for path in modules if any(m in (PACKAGE / path).read_text() for m in marks)]


def test_fewer_than_a_dozen_modules_name_it():
    assert len(knowers()) < 12, knowers()


def test_nothing_under_the_run_names_it():
    assert not [path for path in knowers() if path.parts[0] in BELOW]
