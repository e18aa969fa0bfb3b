"""Everything printed fits 80 columns: reports, data checks and comparisons, with long, wide and hostile names."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cl_lightning.commands import compare, report
from cl_lightning.common import console
from cl_lightning.common.terminal import printable, wrapped
from cl_lightning.results.compact import matrix
from cl_lightning.results.report import fitted
from cl_lightning.results.tables import callback_tables, score_tables
from tests.results.test_compare import NOTHING_MORE, MakeRun, run

__all__ = ["run"]  # the fixture
WIDTH = 80
NAMES = {
    "plain": "C-STANCE",
    "long": "task1590_diplomacy_text_generation_of_a_very_long_kind",
    "wide": "立场分类任务" * 3,
    "hostile": "[/x][bold]\x1b[31m\u202e\x1b]0;t\x07" * 3,
}


class Terminal(io.StringIO):
    """What is printed to a terminal."""

    def isatty(self) -> bool:
        return True


def record(tasks: int, name: str) -> dict[str, Any]:
    """Return the record of a finished run of so many tasks, with all kinds of tables."""
    order = [f"{NAMES[name]}{i}" for i in range(tasks)]
    R = [[float(97 - 7 * j - i) % 101 if j <= i else None for j in range(tasks)] for i in range(tasks)]
    ends = {task: {other: [12.5, 100.0] for other in order} for task in order}
    metrics = {
        **NOTHING_MORE,
        "metric_of_task": dict.fromkeys(order, "edit_similarity"),
        "trained": [2_442_240] * tasks,
        "intervals": ends,
        "majority": [33.33] * tasks,
        "copy_prompt": [0.0] * tasks,
        "further": {order[-1]: {order[0]: {"rationale_rouge_l": {"score": 55.5, "interval": [50.0, 60.0]}}}},
        "budgets": {order[0]: {"longer": 2, "answers": 128, "max_new_tokens": 64}},
    }
    heads = ["before", *(f"overlap with LoRA-GA's subspace, {NAMES[name]} {i}" for i in range(11))]
    own = {"title": f"surgery {NAMES[name]}", "columns": heads, "rows": [[task, *[0.123456] * 11] for task in order]}
    return {
        "experiment": NAMES[name], "data": NAMES[name], "order": order, "columns": order, "done": tasks, "R": R,
        "zero_shot": [0.0] * tasks, "protocol": "sequential", "metrics": metrics, "tables": {"init": [own]},
    }  # fmt: skip


def printed(*renderables: Any) -> list[str]:
    """Lines on a console without a limit of its own."""
    out = io.StringIO()
    free = Console(file=out, width=1000, markup=False, highlight=False, emoji=False)
    for each in renderables:
        free.print(each)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tasks", [1, 8, 15, 40])
def test_tables_fit(tasks: int, name: str) -> None:
    state = record(tasks, name)
    made, legend = matrix(state, WIDTH)
    found = [*score_tables(state, {}), *callback_tables(state)]
    assert len(found) == 5 if tasks > 1 else len(found) >= 4
    lines = printed(*made, *(part for rows in found for part in fitted(rows, WIDTH)))
    assert max(map(cell_len, lines)) <= WIDTH
    assert not any("\x1b" in line or "\u202e" in line for line in lines)
    # Names that no row shows in full are in the legend.
    whole = "\n".join([*printed(*made), *map(printable, legend)])
    assert all(f"{i} {printable(task)}" in whole for i, task in enumerate(state["order"], 1))
    assert len(made) == (1 if tasks <= 15 else 3)

    # Negative control: one table of these rows, as it would be without a limit.
    wide = [console.table(rows.heads, rows.rows) for rows in found]
    assert max(map(cell_len, printed(*wide))) > WIDTH


def test_nothing_is_lost_where_columns_go_to_further_tables() -> None:
    heads = ["task", *(f"head{i}" for i in range(30))]
    rows = [[f"row{r}", *(f"{r}.{i:03}" for i in range(30))] for r in range(3)]
    text = " ".join(printed(*console.tables(heads, rows, width=WIDTH)))
    assert all(word in text for row in [heads, *rows] for word in row)


def on_terminal(monkeypatch: pytest.MonkeyPatch, module: Any, *argv: str, no_color: str = "") -> str:
    """What a command prints on a terminal of 80 columns."""
    out = Terminal()
    for name, value in {"COLUMNS": "80", "TERM": "xterm-256color", "NO_COLOR": no_color}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", out)
    module.main([*argv])
    return out.getvalue()


def eight(run: MakeRun, name: str, method: str, lr: float = 0.1) -> Path:
    state = record(8, name)
    order = tuple(state["order"])
    if name == "hostile":
        order = tuple(f"[|x][bold]{i}" for i in range(8))
        state["metrics"] |= {"metric_of_task": dict.fromkeys(order, "accuracy"), "further": {}, "budgets": {}}
    scores = {(i, j): [100.0, 0.0] for i in range(8) for j in range(i + 1)}
    facts = {key: state[key] for key in ("metrics", "tables", "data")} | {"experiment": method}
    return run("run", 1, scores, order=order, facts=facts, **{"model.lr": lr})


@pytest.mark.parametrize("name", NAMES)
def test_commands_fit_a_terminal(run: MakeRun, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (eight(run, name, NAMES[name], lr) for lr in (0.1, 0.2))
    for command, *argv in ((report, str(one), "--tables"), (compare, str(one), str(two))):
        lines = Text.from_ansi(on_terminal(monkeypatch, command, *argv)).plain.splitlines()
        plain = [line for line in lines if str(one.parent) not in line]  # a path stays whole
        assert len(plain) > 20 and max(map(cell_len, plain)) <= WIDTH


def test_scores_are_coloured_on_a_terminal_that_may_be(run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(eight(run, "plain", "a"))
    assert "\x1b[" in on_terminal(monkeypatch, report, path, "--tables")
    plain = on_terminal(monkeypatch, report, path, "--tables", no_color="1")
    assert "\x1b[3" not in plain and "\x1b[4" not in plain


def test_lines_are_wrapped_at_words_by_their_width() -> None:
    text = "  surgery fired in 7 % of 210 matrices " + "立场分类 " * 12 + "/a/path/" + "x" * 90 + " end"
    lines = wrapped(text, WIDTH).split("\n")
    assert [line for line in lines if cell_len(line) > WIDTH] == [f"    /a/path/{'x' * 90}"]
    assert all(line.startswith("    ") for line in lines[1:]) and " ".join(" ".join(lines).split()) == text.strip()
    assert wrapped("short  as it is", WIDTH) == "short  as it is"
