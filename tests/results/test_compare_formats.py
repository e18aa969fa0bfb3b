"""A comparison as Markdown, CSV and LaTeX, and the command that prints them."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.__main__ import main
from cl_lightning.commands.compare import render
from cl_lightning.results.comparison.table import compare
from tests.conftest import ROOT
from tests.results.test_compare import LOW, NOTHING_MORE, OTHER, PLAIN, MakeRun, run

__all__ = ["run"]  # the fixture


def small(run: MakeRun) -> list[str]:
    runs = [run("lora_1", 1), run("lora_1", 2, LOW), run("slice", 1, PLAIN, **OTHER)]
    return [str(path) for path in [*runs, run("slice", 1, LOW, order=("Py150", "FOMC"), **OTHER)]]


def test_markdown(run: MakeRun) -> None:
    made, out = render(small(run))
    assert out is None
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows[:4]}) == 1
    assert rows[0][:5] == ["method", "A: ap", "A: fp", "A: forget_T", "A: seeds"]
    bare = [[cell.partition(" [")[0] for cell in row] for row in rows]
    assert bare[2] == ["lora_1", "56.25 ± 30.05", "43.75 ± 30.05", "12.50 ± 0.00", "2", "", "", "", "", ""]
    assert bare[3][1:] == ["77.50", "65.00", "12.50", "1", "35.00", "22.50", "12.50", "1", "43.75 / 22.50 (2 orders)"]
    found = compare([Path(path) for path in small(run)]).aggregate(0, 0, "ap")
    assert rows[2][1] == f"56.25 ± 30.05 [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    assert rows[6][:3] == ["slice", "+0.00 [0.00, 0.00]", "+0.00 [0.00, 0.00]"]
    assert "- A: FOMC > Py150; data: TRACE files; scored by: accuracy; base: tiny; seeds: 1, 2" in made


def test_every_format_says_how_it_was_scored(run: MakeRun) -> None:
    """One column is kept apart from no other, so its note alone can tell."""
    metrics = {**NOTHING_MORE, "metric_of_task": {"FOMC": "accuracy", "Py150": "rouge_l"}, "by_likelihood": ["FOMC"]}
    facts = {"metrics": metrics, "view": "re-scored: own"}
    paths = [str(run("lora", 1, facts=facts)), str(run("lora", 2, facts=facts))]
    output = "accuracy by likelihood (FOMC), rouge_l (Py150); re-scored: own"
    assert f"scored by: {output};" in render(paths)[0]
    assert f"scored by: {output};" in render([*paths, "--format=latex"])[0].replace(r"\_", "_")
    made, _ = render([*paths, "--format=csv", "--metrics", "fp"])
    assert [row["scored_by"] for row in csv.DictReader(io.StringIO(made))] == [output]


def test_csv(run: MakeRun) -> None:
    made, _ = render([*small(run), "--format=csv", "--metrics", "fp", "bwt", "--baseline=slice"])
    rows = list(csv.DictReader(io.StringIO(made)))
    assert len(rows) == 3 * 2
    first = rows[0]
    assert (first["method"], first["column"], first["metric"], first["seeds"]) == ("lora_1", "A", "fp", "2")
    assert (float(first["mean"]), float(first["sd"])) == (43.75, pytest.approx(30.0520382))
    assert float(first["low"]) < 43.75 < float(first["high"])
    assert (first["baseline"], first["difference"], first["paired_seeds"]) == ("slice", "0.0", "1")
    assert {r["baseline"] for r in rows if r["method"] == "slice"} == {""}
    orders = {(r["method"], r["column"], r["metric"]): (r["orders"], r["orders_mean"], r["orders_worst"]) for r in rows}
    assert orders["lora_1", "A", "fp"] == ("", "", "")
    assert orders["slice", "A", "fp"] == orders["slice", "B", "fp"] == ("2", "43.75", "22.5")


def test_latex(run: MakeRun) -> None:
    made, _ = render([*small(run), "--format=latex"])
    assert made.count(r"\begin{tabular}") == made.count(r"\end{tabular}") == 2
    body = [line for line in made.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    spec = made.split(r"\begin{tabular}{")[1].split("}")[0]
    assert all(line.count("&") == len(spec) - 1 for line in body[:3])
    assert r"lora\_1 & 56.25 $\pm$ 30.05 [" in made
    assert "%" not in made.replace(r"\%", ""), "notes are printed, no comments"
    assert r"A: FOMC $>$ Py150; data: TRACE files; scored by: accuracy; base: tiny; seeds: 1, 2\par" in made
    assert made.replace(r"\{", "").count("{") == made.replace(r"\}", "").count("}")
    assert r"forget\_T" in made


@pytest.mark.parametrize("name", ["[b]", "*star", " [x", "**"])
def test_latex_takes_no_name_for_an_argument(run: MakeRun, name: str) -> None:
    r"""A rule and "\\" look past line ends for a "[" or a "*"."""
    runs = [str(run(name, 1)), str(run("b", 1, **OTHER))]
    made, _ = render([*runs, "--format=latex", "--baseline=b"])
    assert made.count(name.strip()) >= 2, "in the table, and in that of differences"
    follows = re.findall(r"(?:\\\\|rule)\s*(\S)", made)
    assert len(follows) > 8 and not {"[", "*"} & set(follows)


def test_the_command(run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    runs = small(run)

    def output(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cl-lightning", "compare", *argv])
        code, printed = main(), capsys.readouterr()
        assert printed.out == ("" if code else f"written: {out}\n")
        return code, printed.err

    out = tmp_path / "new" / "table.tex"
    assert output(*runs, "--format=latex", f"--out={out}") == (0, "")
    assert out.read_text().endswith("\\par\n}\n")
    assert output(*runs, f"--out={out}", "--overwrite") == (0, "")
    assert out.read_text().startswith("### Methods")
    (tmp_path / "file").write_text("in the way")
    for argv, line in [
        (
            (*runs, f"--out={tmp_path}/file/table.md"),
            f"error: {tmp_path}/file/table.md: cannot be written (File exists)",
        ),
        ((*runs, f"--out={tmp_path}"), f"error: --out: {tmp_path} is a folder; name a file"),
        ((*runs, f"--out={out}"), f"error: --out: {out} already exists; name another file, or add --overwrite"),
        ((*runs, "--out=/proc/no/table.md"), "error: /proc/no/table.md: cannot be written (No such file"),
        ((*runs, "--metrics", "fpp"), "error: --metrics: no metric 'fpp' to compare; did you mean fp?"),
        ((*runs, "--baseline=lora"), "error: --baseline: no method 'lora' in the table; did you mean lora_1?"),
        ((str(tmp_path / "no"),), f"error: {tmp_path}/no: no run folder"),
        ((str(run("one", order=("FOMC",), scores={(0, 0): [1.0]})), "--metrics", "bwt"), "error: --metrics: "),
    ]:
        code, err = output(*argv)
        assert code == 2 and err.startswith(line) and len(err.splitlines()) == 1


def test_no_torch(run: MakeRun) -> None:
    made = f"from cl_lightning.commands.compare import render; render([{str(run('a'))!r}])"
    code = f"import sys; {made}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
