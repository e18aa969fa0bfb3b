"""What follows from rows, against numbers made by hand."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from cl_lightning.study.claims import Claim, verdicts
from cl_lightning.study.grid import Grid
from cl_lightning.study.packed import pack_scores
from cl_lightning.study.report import figures, report
from cl_lightning.study.rows import Row, as_csv, read_rows
from cl_lightning.study.statistics import NEMENYI, Findings, another, area
from tests.study.conftest import MakeRow


def found(grid: Grid, rows: Sequence[Row]) -> Findings:
    return Findings(grid, list(grid.cells()), rows)


def two(learnt: float, last: float) -> list[list[float | None]]:
    return [[learnt, None], [last, learnt]]


def test_the_learning_rate_is_chosen_on_the_development_sequence_alone(grid: Grid, row: MakeRow) -> None:
    rows = [row("plain", "dev", two(80, 20)), row("plain", "dev", two(60, 60), rate=1e-2)]
    rows += [row("plain", "one", two(100, 100)), row("replay", "one", two(100, 100))]
    rates = found(grid, rows).rates
    assert rates["plain"] == (1e-2, 2), "fp 60 there, against 50"
    assert rates["replay"] == (1e-2, 0), "the middle one, of none tried"


def test_other_sequences_want_the_chosen_rate_once_all_were_tried(grid: Grid, row: MakeRow) -> None:
    rows = [row("plain", "dev", two(80, 20)), row("plain", "dev", two(60, 60), rate=1e-2)]
    rows += [row("replay", "dev", two(80, 20))]
    all_ = found(grid, rows)
    wanted = [(c.sequence, c.method, c.rate) for c in grid.cells() if c.seed == 1 and all_.wanted(c)]
    dev = [("dev", method, rate) for rate in (1e-2, 1e-3) for method in ("plain", "replay", "joint")]
    assert sorted(wanted) == sorted([*dev, ("one", "plain", 1e-2), ("two", "plain", 1e-2)])


def test_means_and_differences(grid: Grid, row: MakeRow) -> None:
    rows = [row("plain", "one", two(80, 20), 1e-2), row("plain", "one", two(60, 40), 1e-2, seed=2)]
    rows += [row("replay", "one", two(80, 60), 1e-2), row("joint", "one", [[70.0, 90.0]], 1e-2)]
    all_ = found(grid, rows)
    fp = all_.mean(all_.of("plain", "one"), "fp")
    assert fp is not None and fp.mean == 50 and fp.seeds == 2
    assert fp.interval[0] < 50 < fp.interval[1]
    assert fp.another is None or fp.another == (50, 50), "both seeds have fp 50"
    ap = all_.mean(all_.of("plain", "one"), "ap")
    # Means 80 and 60: standard deviation 14.142, times 12.706 sqrt(1.5).
    assert ap is not None and ap.another == pytest.approx((70 - 220.07, 70 + 220.07), abs=0.01)
    change = all_.difference("replay", "plain", "one", "fp")
    assert change is not None and change.mean == 20 and change.seeds == 1, "only the seed that both have"
    assert all_.difference("plain", "plain", "one", "fp") is None
    assert all_.difference("joint", "plain", "one", "ap") is None, "joint training has no diagonal"
    joint = all_.mean(all_.of("joint", "one"), "fp")
    assert joint is not None and joint.mean == 80


def test_scores_of_old_tasks_that_were_left_out_count_as_nothing(grid: Grid, row: MakeRow) -> None:
    """`plain` has no score of its first task after the second, `replay` one on four prompts of twenty."""
    R: list[list[float | None]] = [[80.0, None, None], [None, 60.0, None], [40.0, 20.0, 100.0]]
    single = row("replay", "one", R, 1e-2).single
    single[1][0] = [100.0] * 4
    few = row("replay", "one", [R[0], [100.0, *R[1][1:]], R[2]], 1e-2, scores=pack_scores(single))
    all_ = found(grid, [row("plain", "one", R, 1e-2), few])
    expected = {"plain": {"f_ra": 40, "min_acc": 30, "aaa": (80 + 160 / 3) / 2}}
    expected["replay"] = {"f_ra": 50, "min_acc": 30, "aaa": (80 + 80 + 160 / 3) / 3}
    for method, values in expected.items():
        for metric, value in values.items():
            mean = all_.mean(all_.of(method, "one"), metric)
            assert mean is not None and mean.mean == pytest.approx(value), (method, metric)
            low, high = mean.interval
            assert 5 < low <= value <= high, "zeros in their place would pull it down"


def test_differences_are_paired_by_prompt(grid: Grid, row: MakeRow) -> None:
    """The same answers, one more right on each task: the difference has a narrow interval, the scores a wide one."""
    rows = [row("plain", "one", two(50, 50), 1e-2), row("replay", "one", two(55, 55), 1e-2)]
    all_ = found(grid, rows)
    change, score = all_.difference("replay", "plain", "one", "fp"), all_.mean(all_.of("plain", "one"), "fp")
    assert change is not None and score is not None
    assert change.interval[1] - change.interval[0] < 15 < score.interval[1] - score.interval[0]


def test_prediction_intervals_hold_a_further_seed() -> None:
    """Of 2000 studies whose seeds are drawn from one distribution, 95 % hold a further seed's value."""
    rng = random.Random(0)
    for seeds in (2, 3, 5):
        inside = 0
        for _ in range(2000):
            *seen, held_out = (rng.gauss(50, 8) for _ in range(seeds + 1))
            low, high = another(seen) or (0, 0)
            inside += low <= held_out <= high
        assert 1870 <= inside <= 1930, seeds
    assert another([50.0]) is None


def test_area() -> None:
    assert area([(50.0, 100.0), (100.0, 50.0)]) == 75
    assert area([(50.0, 50.0), (40.0, 40.0)]) == 25
    assert area([]) == 0


def test_ranks_and_critical_difference(grid: Grid, row: MakeRow) -> None:
    rows = [row("plain", s, two(80, 20), 1e-2) for s in ("one", "two")]
    rows += [row("replay", "one", two(80, 60), 1e-2), row("replay", "two", two(80, 20), 1e-2)]
    rows += [row("joint", s, [[90.0, 90.0]], 1e-2) for s in ("one", "two")]
    ranks, critical, sequences = found(grid, rows).ranks()
    assert ranks == {"plain": 1.75, "replay": 1.25}
    assert sequences == ["one", "two"]
    # Demsar 2006: q sqrt(k (k + 1) / (6 N)), q = 1.96 for two methods.
    assert critical == pytest.approx(1.96 * (2 * 3 / 12) ** 0.5)
    assert found(grid, rows[:1]).ranks()[1] is None, "one method"


def test_nemenyi_is_the_studentised_range() -> None:
    from scipy.stats import studentized_range

    exact = [studentized_range.ppf(0.95, k, float("inf")) / 2**0.5 for k in (2, 10, 20)]
    assert [NEMENYI[0], NEMENYI[8], NEMENYI[18]] == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize(
    ("last", "verdict"), [(100, "confirmed"), (22, "no difference shown"), (20, "no difference shown"), (0, "refuted")]
)
def test_verdicts(grid: Grid, row: MakeRow, last: float, verdict: str) -> None:
    claim = Claim("more", "paper", "replay", "plain", "fp", "higher")
    rows = [row("plain", "one", two(80, 20), 1e-2), row("replay", "one", two(80, last), 1e-2)]
    ((sequence, found_verdict, _),) = verdicts(claim, found(grid, rows))
    assert (sequence, found_verdict) == ("one", verdict)
    opposite = Claim("less", "paper", "replay", "plain", "fp", "lower")
    swapped = {"confirmed": "refuted", "refuted": "confirmed"}
    assert verdicts(opposite, found(grid, rows))[0][1] == swapped.get(verdict, verdict)


def test_the_development_sequence_proves_nothing(grid: Grid, row: MakeRow) -> None:
    claim = Claim("more", "paper", "replay", "plain", "fp", "higher")
    rows = [row("plain", "dev", two(80, 20), 1e-2), row("replay", "dev", two(80, 80), 1e-2)]
    assert verdicts(claim, found(grid, rows)) == [("", "untested: no cells yet", None)]
    assert verdicts(Claim("big", "paper"), found(grid, rows)) == [("", "untested: not in this grid", None)]


def test_tables_and_figures_follow_from_the_file_alone(
    grid: Grid, definition: Path, row: MakeRow, tmp_path: Path
) -> None:
    rows = [
        row(m, s, two(80, 20 + 5 * i), r)
        for i, m in enumerate(("plain", "replay"))
        for s in grid.sequences
        for r in grid.rates
    ]
    rows.append(row("joint", "one", [[90.0, 90.0]], 1e-2, fired=12.0))
    file = tmp_path / "results.csv"
    file.write_bytes(as_csv(rows[::-1]))
    cells = list(grid.cells())
    text, drawn = report(grid, definition, cells, rows), figures(grid, cells, rows)
    assert text == report(grid, definition, cells, read_rows(file))
    assert drawn == figures(grid, cells, read_rows(file))
    assert sorted(drawn) == ["plane_dev.svg", "plane_one.svg", "plane_two.svg"]
    assert "13 of 36 cells are finished." in text
    assert "| replay | 0.001 | 1 | 80.0 (" in text
    assert "Mean ranks that differ by less than 1.39 are not distinguished" in text
    assert "They wait for" in report(grid, definition, cells, [])
