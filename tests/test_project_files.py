"""Files that say what the project is, beside its code, agree with it."""

import pathlib
import re
import shlex

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from requirements import requirements_of_setup

import ibot_jax

ROOT = pathlib.Path(__file__).parent.parent


def test_the_citation_is_of_this_version_and_names_the_paper():
    """CFF 1.2.0 asks for the first four keys; its schema lists the types of references."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == ibot_jax.__version__
    (paper,) = citation["references"]
    assert paper["type"] == "conference-paper" and paper["year"] == 2022
    assert "arXiv 2111.07832" in ibot_jax.__doc__ and paper["url"].endswith("/abs/2111.07832")


def test_hooks_before_a_commit_run_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    files = [str(path.relative_to(ROOT)) for path in [*ROOT.glob("launch/*"), *ROOT.glob(".ci/*")]]
    for hook in hooks:
        assert f"\t{hook['entry']} " in lint
        if "files" in hook:  # else of a type, as the tool finds them itself
            (line,) = (line for line in lint.splitlines() if f"\t{hook['entry']} " in line)
            patterns = shlex.split(line.removeprefix(f"\t{hook['entry']} "))
            named = {str(path.relative_to(ROOT)) for p in patterns for path in ROOT.glob(p)}
            assert {file for file in files if re.search(hook["files"], file)} == named


def pins(name):
    """The versions of a file of requirements, by name."""
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier)[2:])
        for requirement in found
        if requirement.marker is None or requirement.marker.evaluate()
    }


def test_the_lowest_versions_are_those_that_setup_allows():
    """Where a bound is none that goes together with the others, the file has a higher version."""
    install, extras = requirements_of_setup()
    lowest = pins("requirements.lowest")
    for text in [*install, *extras["docs"], *extras["test"]]:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            (bound,) = requirement.specifier
            assert bound.operator == ">=", text
            assert lowest[canonicalize_name(requirement.name)] == Version(bound.version), text


def test_locked_versions_are_ones_that_setup_allows():
    install, extras = requirements_of_setup()
    locked = pins("requirements.lock")
    for requirement in map(Requirement, [*install, *extras["docs"], *extras["test"]]):
        if requirement.marker is None or requirement.marker.evaluate():
            assert locked[canonicalize_name(requirement.name)] in requirement.specifier
