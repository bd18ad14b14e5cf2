"""What Sphinx makes of these pages, of README.md and of docstrings: `make docs`."""

import ibot_jax

project = "ibot_jax"
version = release = ibot_jax.__version__
copyright = "the ibot_jax maintainers, Apache-2.0"

extensions = [
    "myst_parser",  # pages in Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings in Google's style
]
root_doc = "index"
html_theme = "furo"
html_title = f"ibot_jax {release}"
html_show_sphinx = False

myst_heading_anchors = 4  # links to #headings, as everywhere for Markdown
smartquotes = False  # flags begin with two hyphens
default_role = "code"  # of one backtick, in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True

# A link that names no page, heading, file or function is a warning, which ends the build.
nitpicky = True
nitpick_ignore_regex = [
    ("py:(class|data|obj)", ".*")
]  # types in signatures, of other libraries too


def _as_pages(app, name, source):
    """Turns links of a page to README.md, which is the first page here, into links to that."""
    source[0] = source[0].replace("](../README.md", "](index.md")


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", _as_pages)
