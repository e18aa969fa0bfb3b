"""Compares answers when a task was learnt with those at the end: counts, and the examples that lost most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_lightning.results.page.palette import RULE, SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, cut, label
from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import ZERO_SHOT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of examples per task, and of characters per text.
EXAMPLES, CHARACTERS = 8, 240


@dataclass(frozen=True)
class Compared:
    """Predictions on a task's test examples: of the untrained model (if any), when learnt, and at the end."""

    task: str
    before: list[dict[str, Any]]
    learnt: list[dict[str, Any]]
    end: list[dict[str, Any]]

    @property
    def changes(self) -> list[float]:
        """Change of each example's score; negative if it was forgotten."""
        return [end["score"] - learnt["score"] for learnt, end in zip(self.learnt, self.end, strict=True)]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Numbers of examples by `NAMES`: lost, kept above 0, stayed at 0, gained."""
        changes = self.changes
        stayed = [end["score"] for change, end in zip(changes, self.end, strict=True) if change == 0]
        lost, gained = (sum(change < 0 for change in changes), sum(change > 0 for change in changes))
        return lost, sum(score > 0 for score in stayed), sum(score == 0 for score in stayed), gained

    def rows(self) -> list[list[str | float]]:
        """Return the examples that lost most, then those that gained most; ties in the order of the file."""
        changes = self.changes
        changed = [k for k, change in enumerate(changes) if change]
        changed.sort(key=lambda k: (changes[k] > 0, -abs(changes[k])))
        return [self._row(k) for k in changed[:EXAMPLES]]

    def _row(self, k: int) -> list[str | float]:
        reference = self.end[k]["reference"]
        expected = reference if isinstance(reference, str) else " / ".join(reference)
        answers = [rows[k]["prediction"] if rows else "" for rows in (self.before, self.learnt, self.end)]
        scores = [self.learnt[k]["score"], self.end[k]["score"]]
        return [self.end[k]["id"], *(cut(text, CHARACTERS) for text in (expected, *answers)), *scores]


NAMES = ("lost", "kept above 0", "stayed at 0", "gained")


def section(run: Source) -> Section | Missing:
    """Build a chart of the changes by task, and a table of examples for each task."""
    if not run.protocol.builds_on or len(run.done) < 2:
        return Missing("answers that were forgotten: they need two tasks, one learnt after the other")
    if not run.whole:
        return Missing(f"answers that were forgotten: old tasks were not scored after {run.done[-1]}")
    found = [_compared(run, task) for task in run.done[:-1]]
    compared = [each for each in found if each is not None]
    if not compared:
        return Missing("answers that were forgotten: the run has no predictions")
    heads = ["task", *NAMES]
    lost, count = sum(each.counts[0] for each in compared), sum(len(each.end) for each in compared)
    chart = Chart(
        "predictions",
        "What became of the test examples since their task was learnt",
        f"Stacked bars of {len(compared)} tasks: the score of {lost:,} of {count:,} test examples fell.",
        Rows("", heads, [[each.task, *(f"{number:,}" for number in each.counts)] for each in compared]),
        lambda figure: _draw(figure, compared),
        (3.4, 1.1 + 0.24 * len(compared)),
    )
    text = [
        f"For each task, up to {EXAMPLES} of the examples whose score changed, those that lost most first. Characters "
        "that do not print are shown escaped, and long answers are cut."
    ]
    return Section(
        "Answers before and after",
        text,
        charts=[chart],
        folded=[(each.task, _table(each)) for each in compared if any(each.changes)],
    )


def _compared(run: Source, task: str) -> Compared | None:
    end = run.predictions(run.done[-1], task)
    # An unfinished run may have scored some of the examples only.
    ids = [row["id"] for row in end]
    before, learnt = ({row["id"]: row for row in run.predictions(after, task)} for after in (ZERO_SHOT, task))
    if not learnt or not learnt.keys() >= {*ids}:
        return None
    return Compared(task, [before[k] for k in ids if before], [learnt[k] for k in ids], end)


def _table(each: Compared) -> Rows:
    rows, changed = each.rows(), sum(change != 0 for change in each.changes)
    heads = ["example", "reference", "untrained", "when learnt", "at the end", "score then", "score now"]
    title = f"{len(rows)} of {changed:,} examples that changed, of {len(each.end):,} in all"
    return Rows(title, heads, rows)


def _draw(figure: Figure, compared: list[Compared]) -> None:
    axes, places = figure.subplots(), range(len(compared))
    start = [0.0] * len(compared)
    for k, (name, colour) in enumerate(zip(NAMES, (SERIES[1], SERIES[2], RULE, SERIES[0]), strict=True)):
        shares = [100 * each.counts[k] / len(each.end) for each in compared]
        look = {"color": colour, "hatch": "////" if name == "lost" else "", "edgecolor": "white", "linewidth": 0.3}
        axes.barh(places, shares, 0.7, left=start, label=name, **look)
        start = [one + other for one, other in zip(start, shares, strict=True)]
    axes.set_yticks(places, [label(each.task) for each in compared])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of test examples")
    figure.legend(loc="outside lower center", ncols=4, handlelength=1.0, columnspacing=0.8)
