"""The definition of a study: its cells and their order, what their hashes depend on, and faults."""

from pathlib import Path

import pytest

from cl_lightning.commands.experiments import folder
from cl_lightning.common.errors import ConfigError
from cl_lightning.study.claims import read_claims
from cl_lightning.study.grid import read_grid


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_every_cell_is_there_once_and_development_comes_first(definition: Path) -> None:
    cells = list(read_grid(definition).cells())
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == len(cells) == 3 * 2 * 2 * 3
    assert [cell.sequence for cell in cells] == ["dev"] * 12 + ["one"] * 12 + ["two"] * 12
    assert [str(cell) for cell in cells[:3]] == [f"dev {m} lr=0.01 seed=1" for m in ("plain", "replay", "joint")]


def test_a_definition_changes_with_its_options_and_with_nothing_else(definition: Path) -> None:
    before = read_grid(definition).definitions
    edit(definition / "methods/plain.yaml", "# Plain", "# Another comment\n")
    edit(definition / "_base.yaml", "report: false", "report: true")
    edit(definition / "grid.yaml", "seeds: [1, 2]", "seeds: [1, 2, 3]")
    assert read_grid(definition).definitions == before
    edit(definition / "methods/plain.yaml", "boundary: {}", "model: {adapter: {init_args: {rank: 3}}}")
    changed = read_grid(definition).definitions
    assert {pair for pair in before if changed[pair] != before[pair]} == {("plain", s) for s in ("dev", "one", "two")}
    edit(definition / "sequences/two.yaml", "test_samples", "train_samples")
    again = read_grid(definition).definitions
    assert {pair for pair in before if again[pair] != changed[pair]} == {
        (m, "two") for m in ("plain", "replay", "joint")
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("development: dev", "development: de", "development: no 'de'; did you mean dev?"),
        ("baselines: [plain]", "baselines: [plan]", "baselines: no 'plan'; did you mean plain"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "seeds: must be a list without repetitions"),
        ("seeds: [1, 2]", "seeds: 1", "seeds: must be a list without repetitions"),
        ("1.0e-2", "1e-2", "rates: '1e-2' must be a number above 0 (YAML reads 1e-3 as text: write 1.0e-3)"),
        ("1.0e-2", "-0.1", "rates: -0.1 must be a number above 0"),
        ("[1, 2]", "[1, 2.5]", "seeds: 2.5 must be a number above 0"),
        ("references: [joint]", "", "has no references"),
        ("seeds:", "colour: red\nseeds:", "valid: "),
        ("[plain, replay, joint]", "[plain, replay, joint, ewc]", "methods/ewc.yaml: cannot be read"),
        ("[plain, replay, joint]", "[plain, ../replay, joint]", "methods: the name '../replay'"),
    ],
)
def test_faults_are_one_line(definition: Path, old: str, new: str, message: str) -> None:
    edit(definition / "grid.yaml", old, new)
    with pytest.raises(ConfigError) as found:
        read_grid(definition)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_the_study_of_this_project_is_whole() -> None:
    grid = read_grid(folder() / "study")
    assert grid.sequences == ("S0", "S1", "S2", "S3", "S4")
    assert len(grid.rates) == len(grid.seeds) == 3
    assert read_claims(folder() / "study", grid.methods)
    files = {path.stem for path in (folder() / "study/methods").glob("*.yaml")}
    assert files == {*grid.methods}, "each file is a method of the grid"


def test_a_claim_about_an_unknown_method_is_refused(definition: Path) -> None:
    claim = "- {claim: a, source: b, method: plane, against: plain, metric: fp, expected: higher}\n"
    (definition / "claims.yaml").write_text(claim)
    with pytest.raises(ConfigError, match="claim 1: method: no 'plane'; did you mean plain"):
        read_claims(definition, ("plain",))
    (definition / "claims.yaml").write_text("- {claim: a, source: b, method: plain}\n")
    with pytest.raises(ConfigError, match="claim 1: lacks against, expected, metric"):
        read_claims(definition, ("plain",))
