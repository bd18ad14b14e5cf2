"""A page of HTML: one file that asks nothing of a network."""

import base64
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

from PIL import Image

_HERE = pathlib.Path(__file__).parent
# The page could not load anything from elsewhere if it wanted to.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, summary: str, facts: str, sections: Mapping[str, str], footer: str) -> str:
    """Returns the whole page.

    Args:
      title: of the page, plain text, as `summary` and `footer`.
      summary: a sentence below it.
      facts: HTML, see `fact_list`.
      sections: HTML by heading; empty ones are left out.
      footer: a line at the end.
    """
    shown = {heading: content for heading, content in sections.items() if content}
    names = {heading: heading.lower().replace(" ", "-") for heading in shown}
    links = "".join(f'<li><a href="#{names[name]}">{html.escape(name)}</a></li>' for name in shown)
    body = "".join(
        f'<section aria-labelledby="{names[name]}"><h2 id="{names[name]}">{html.escape(name)}</h2>'
        f"{content}</section>"
        for name, content in shown.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>"
        f"<style>{(_HERE / 'page.css').read_text()}</style></head><body>"
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>{facts}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{body}</main><footer><p>{html.escape(footer)}</p></footer>"
        f"<script>{(_HERE / 'page.js').read_text()}</script></body></html>\n"
    )


def fact_list(facts: Sequence[tuple[str, str, str]]) -> str:
    """Returns the numbers that count: (name, value, what is to be said of it) each."""
    cards = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}"
        f"<small>{html.escape(remark)}</small></dd></div>"
        for name, value, remark in facts
    )
    return f'<dl class="facts">{cards}</dl>'


def note(text: str) -> str:
    """Returns a remark."""
    return f'<p class="note">{html.escape(text)}</p>'


def picture(title: str, caption: str, alt: str, image: Image.Image) -> str:
    """Returns a figure whose image is part of the page; on narrow screens it scrolls sideways."""
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=82, method=6)
    data = base64.b64encode(encoded.getvalue()).decode()
    alt = html.escape(alt)
    return (
        f'<figure class="picture"><figcaption><h3>{html.escape(title)}</h3>'
        f"<p>{html.escape(caption)}</p></figcaption>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(title)}">'
        f'<img src="data:image/webp;base64,{data}" alt="{alt}" width="{image.width}" '
        f'height="{image.height}" style="--width: {image.width}px"></div></figure>'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose first column names the rows."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def scrolled(label: str, content: str) -> str:
    """Returns content that scrolls sideways on narrow screens."""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(label)}">'
        f"{content}</div>"
    )


def folded(summary: str, content: str) -> str:
    """Returns content that opens by a click."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"
