"""The outcome of a suite: figures of models beside published ones, as text, Markdown and HTML."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import ibot_jax
from ibot_jax.evaluate.common.report import SHARED, table
from ibot_jax.evaluate.suite.catalogue import Evaluation, Figure
from ibot_jax.screen import page

_NOTHING = "-"
_TITLE = "Evaluations"


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What was found.

    Attributes:
      labels: of the models.
      beside: the published model that each is held against, if any.
      present: the evaluations whose data was there.
      absent: the others, and what was missed.
      found: metrics by (label, name of the evaluation).
      failed: the error of those that have none.
      quick: whether this was a first look.
    """

    labels: Sequence[str]
    beside: Sequence[str | None]
    present: Sequence[Evaluation]
    absent: Sequence[tuple[Evaluation, str]]
    found: Mapping[tuple[str, str], Mapping[str, float]]
    failed: Mapping[tuple[str, str], str]
    quick: bool

    def rows(self) -> list[dict[str, str]]:
        """Returns a row for each figure: of each model, in brackets less what was published."""
        return [
            {"": f"{figure.title}, {figure.unit}"}
            | {label: self._cell(evaluation, figure, label) for label in self.labels}
            | {
                name: _show(figure, figure.published[name])
                if name in figure.published
                else _NOTHING
                for name in self._published()
            }
            for evaluation in self.present
            for figure in evaluation.figures
        ]

    def text(self) -> str:
        """Returns the table for a terminal."""
        return table(self.rows())

    def markdown(self) -> str:
        """Returns the table, and what it lacks, as Markdown."""
        rows = self.rows()
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
        blocks = [f"# {_TITLE}", self._summary()]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        blocks += [f"- {text}" for text in self._remarks()]
        return "\n\n".join(blocks) + "\n"

    def page(self) -> str:
        """Returns the same as one file of HTML."""
        rows = self.rows()
        sections = {
            "Figures": page.scrolled(
                _TITLE, page.table(list(rows[0]), [[*row.values()] for row in rows])
            ),
            "Remarks": "".join(map(page.note, self._remarks())),
        }
        footer = f"ibot_jax {ibot_jax.__version__}"
        return page.page(_TITLE, self._summary(), "", sections, footer)

    def _published(self) -> list[str]:
        return [name for name in dict.fromkeys(self.beside) if name]

    def _cell(self, evaluation: Evaluation, figure: Figure, label: str) -> str:
        metrics = self.found.get((label, evaluation.name))
        if metrics is None:
            return "failed"
        value = metrics[figure.metric]
        beside = self.beside[self.labels.index(label)]
        if beside not in figure.published:
            return _show(figure, value)
        return f"{_show(figure, value)} ({_show(figure, value - figure.published[beside], '+')})"

    def _summary(self) -> str:
        if self.quick:
            return "A first look, at few images and by few steps: to compare these models alone."
        if self._published():
            return "In brackets: how far a figure is from the published one, the last columns."
        return "No published model is of the same size."

    def _remarks(self) -> Iterator[str]:
        for (label, name), metrics in self.found.items():
            if number := metrics.get(SHARED):
                yield f"{name} of {label}: {number:,} of the test images are training images, too"
        for (label, name), error in self.failed.items():
            yield f"{name} of {label} failed: {error}"
        for evaluation, place in self.absent:
            page = evaluation.needs[place]
            yield f"{evaluation.name}: {place} is absent; it is from {page}"


def _show(figure: Figure, value: float, sign: str = "") -> str:
    """Returns a figure with as many digits as published ones have."""
    digits = 1 if figure.unit == "%" else 3
    return f"{value:{sign}.{digits}f}"
