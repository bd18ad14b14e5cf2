"""README.md, docs/ and docstrings as pages of HTML."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Returns the folder of pages, as `make docs` makes them; a link without an aim is an error."""
    pytest.importorskip("furo", reason="pip install 'ibot-jax[docs]'")
    out = tmp_path_factory.mktemp("docs")
    (command,) = re.findall(r"-m (sphinx .*) docs build/docs\n", (ROOT / "Makefile").read_text())
    assert "--fail-on-warning" in command
    words = [sys.executable, "-m", *command.split(), str(ROOT / "docs"), str(out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return out


@pytest.mark.slow
def test_every_page_is_reached_from_the_first(pages):
    """The bar on the left, the same on each page, has all of docs/, and nothing twice."""
    text = (pages / "index.html").read_text()
    listed = re.findall(r'<li class="toctree-l1"><a class="[^"]*" href="([a-z_]+)\.html">', text)
    files = {path.stem for path in ROOT.glob("docs/*.md")} - {"index"}
    assert sorted(listed) == sorted(files)


@pytest.mark.slow
def test_the_first_page_is_the_readme_and_leads_to_headings(pages):
    text = (pages / "index.html").read_text()
    assert 'href="data.html#larger-files-and-lists"' in text
    assert 'id="start-from-what-you-have"' in text and "docs/data.md" not in text
    images = re.findall(r'<img [^>]*src="([^"]+)"', text)
    assert images and all((pages / image).is_file() for image in images)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ibot_jax.pretrain",
        "ibot_jax.configs",
        "ibot_jax.load",
        "ibot_jax.python.Run.best",
        "ibot_jax.weights.model.Model.features",
        "ibot_jax.errors.UserError",
    ],
)
def test_what_programs_call_is_documented(pages, name):
    assert f'id="{name}"' in (pages / "api.html").read_text()
