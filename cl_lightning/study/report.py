"""Write the tables and figures of the study, from the file of results alone."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from cl_lightning.common.options import label
from cl_lightning.results.page.comparing.plane import front
from cl_lightning.results.page.drawing import drawing
from cl_lightning.results.tables import Rows
from cl_lightning.study.claims import read_claims, verdicts
from cl_lightning.study.grid import Cell, Grid
from cl_lightning.study.plane import chart
from cl_lightning.study.rows import Row
from cl_lightning.study.statistics import Estimated, Findings, area

MEBI = 2**20
#: Metrics whose differences from the baselines are listed.
DIFFERENCES = ("ap", "fp", "forget_T")
COSTS = (
    "method", "seconds", "of CPU", "peak MiB", "stored MiB a task", "state KiB", "conflict %", "fired %", "overlap",
    "gate, own", "gate, old", "ability before", "after",
)  # fmt: skip


def report(grid: Grid, folder: Path, cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """Write all tables as Markdown. `folder`: the definition's, for its claims."""
    found = Findings(grid, cells, rows)
    parts = ["# Tables of the study", _there(found)]
    for sequence in grid.sequences:
        if found.methods(sequence):
            parts += [f"## {sequence}: {grid.about[sequence]}", *map(_markdown, _sequence(found, sequence))]
    parts += ["## Learning rates", _markdown(_rates(found))]
    parts += ["## Ranks over sequences", _ranks(found)]
    parts += ["## Published claims", _markdown(_claims(found, folder))]
    return "\n\n".join(parts) + "\n"


def figures(grid: Grid, cells: Sequence[Cell], rows: Sequence[Row]) -> dict[str, bytes]:
    """Draw the plane of each sequence with rows: file name -> content."""
    found = Findings(grid, cells, rows)
    drawn = {}
    for sequence in grid.sequences:
        if (made := chart(found, sequence)) is not None:
            drawn[f"plane_{sequence}.svg"] = drawing(made).svg
    return drawn


def _there(found: Findings) -> str:
    rows = found.rows
    lines = [f"{len(rows)} of {len(found.cells)} cells are finished."]
    if rows:
        machines, commits = (", ".join(sorted({getattr(r, name) for r in rows})) for name in ("machine", "commit"))
        lines.append(f"Machines: {machines}. Commits: {commits}.")
    return " ".join([*lines, *(f"Note: {note}." for note in found.notes)])


def _sequence(found: Findings, sequence: str) -> list[Rows]:
    methods = found.methods(sequence)
    curves = {method: found.curve(method, sequence) for method in methods}
    points = [(m, ap, fp) for m, curve in curves.items() for rate, ap, fp in curve if rate == found.rate(m)]
    best = {points[i][0] for i in front([(ap, fp) for _, ap, fp in points])}
    scores = [
        [
            method,
            f"{found.rate(method):g}",
            len(found.of(method, sequence)),
            *(_with_ends(found.mean(found.of(method, sequence), name)) for name in ("ap", "fp", "forget_T")),
            *(_constrained(found, method, sequence, name) for name in ("ap", "fp")),
            "yes" if method in best else "no" if curves[method] else "",
            f"{area([(ap, fp) for _, ap, fp in curves[method]]):.1f}" if curves[method] else "",
            _another(found.mean(found.of(method, sequence), "fp")),
        ]
        for method in methods
    ]
    heads = ["method", "lr", "seeds", "ap", "fp", "forget_T", "ap, labels", "fp, labels", "on the front"]
    heads += ["area", "another seed's fp"]
    return [
        Rows("Scores", heads, scores),
        *(_differences(found, sequence, metric) for metric in DIFFERENCES),
        Rows(
            "Costs, and what the method did",
            COSTS,
            [[method, *_costs(found.of(method, sequence))] for method in methods],
        ),
    ]


def _differences(found: Findings, sequence: str, metric: str) -> Rows:
    """The differences of a metric from the baselines."""
    baselines = found.grid.baselines
    rows = [
        [m, *(_with_ends(found.difference(m, b, sequence, metric), True) for b in baselines)]
        for m in found.methods(sequence)
    ]
    return Rows(f"Difference of {metric} (95 %)", ["method", *(f"from {name}" for name in baselines)], rows)


def _costs(rows: Sequence[Row]) -> list[str]:
    sizes = [fmean(row.seconds for row in rows), max(row.peak_bytes for row in rows) / MEBI]
    sizes += [fmean(row.stored_bytes for row in rows) / MEBI, fmean(row.state_bytes for row in rows) / 1024]
    names = ("conflict", "fired", "overlap", "gate_own", "gate_old", "ability_before", "ability_after")
    values = [[v for row in rows if (v := getattr(row, name)) is not None] for name in names]
    digits = (0, 0, 3, 3, 3, 1, 1)
    means = [f"{fmean(each):.{d}f}" if each else "" for each, d in zip(values, digits, strict=True)]
    cpu = [row.cpu_seconds for row in rows if row.cpu_seconds is not None]
    return [
        f"{sizes[0]:.0f}",
        f"{fmean(cpu):.0f}" if cpu else "",
        f"{sizes[1]:.0f}",
        f"{sizes[2]:.1f}",
        f"{sizes[3]:.0f}",
        *means,
    ]


def _rates(found: Findings) -> Rows:
    """Scores on the development sequence at each learning rate, and the chosen one."""
    sequence, rates = found.grid.development, sorted(found.grid.rates)
    rows = []
    for method in found.grid.methods:
        metric = "fp" if "fp" in found.protocol(method).metrics else "ap"
        cells = [found.mean(found.of(method, sequence, rate), metric) for rate in rates]
        if any(cells):
            rate, tried = found.rates[method]
            options = label(found.grid.differing[method]) or "none"
            rows.append([method, options, *map(_with_ends, cells), f"{rate:g}, of {tried} tried"])
    title = f"fp on {sequence} (ap of the independent reference); the highest is chosen"
    return Rows(title, ["method", "options that differ", *(f"lr {rate:g}" for rate in rates), "chosen"], rows)


def _ranks(found: Findings) -> str:
    ranks, critical, sequences = found.ranks()
    if critical is None:
        return "They wait for two methods with cells on two sequences other than the development one."
    rows = [[method, f"{rank:.2f}"] for method, rank in sorted(ranks.items(), key=lambda pair: pair[1])]
    table = _markdown(Rows(f"Mean rank of fp over {', '.join(sequences)}", ["method", "mean rank"], rows))
    return f"{table}\n\nMean ranks that differ by less than {critical:.2f} are not distinguished (Nemenyi, 5 %)."


def _claims(found: Findings, folder: Path) -> Rows:
    rows = []
    for claim in read_claims(folder, found.grid.methods):
        for sequence, verdict, difference in verdicts(claim, found):
            text = "" if difference is None else f"{claim.metric} {_with_ends(difference, True)}"
            rows.append([claim.claim, claim.source, sequence, verdict, text])
    return Rows("", ["claim", "paper", "sequence", "here", "difference (95 %)"], rows)


def _constrained(found: Findings, method: str, sequence: str, metric: str) -> str:
    estimated = found.mean(found.of(method, sequence), metric, constrained=True)
    return "" if estimated is None else f"{estimated.mean:.1f}"


def _with_ends(estimated: Estimated | None, signed: bool = False) -> str:
    if estimated is None:
        return ""
    sign = "+" if signed else ""
    low, high = estimated.interval
    return f"{estimated.mean:{sign}.1f} ({low:{sign}.1f} .. {high:{sign}.1f})"


def _another(estimated: Estimated | None) -> str:
    if estimated is None or estimated.another is None:
        return ""
    low, high = estimated.another
    return f"{low:.1f} .. {high:.1f}"


def _markdown(table: Rows) -> str:
    lines = [table.heads, ["---"] * len(table.heads), *table.rows]
    text = "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"{table.title}:\n\n{text}" if table.title else text
