"""Mutated configurations, thrown at the real command: each is accepted, or refused in one line with exit code 2.

What is accepted comes as far as the run folder, which cannot be made, so nothing is trained. Everything before that is
the command's own: files, parser, classes, model, data, and the checks of all of them against each other.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.commands.test_cli import launch
from tests.conftest import ROOT

#: A folder that nobody can make.
NOWHERE = "/proc/cl-lightning/run"
#: Values that a user, a shell or a generator of configurations may write, by mistake or not.
NUMBERS = st.sampled_from([0, -1, 1, 2, 7, 0.5, -0.0, 1e-9, 1e30, 2**31, 2**64, float("nan"), float("inf"), True])
TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "null", "1e-3x", "../x", "~", "a b", "[/x]", "${oc.env:HOME}", "${data.seed}", "{", "é", "\x00"]
    ),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)
#: Options that only cost time when they are large.
LEFT_ALONE = {"sequence.run_dir", "sequence.threads", "trainer.devices", "trainer.num_nodes", "seed_everything"}


def flat(options: Any, before: str = "") -> dict[str, Any]:
    """Options by their full names; lists and empty mappings are values."""
    if not isinstance(options, dict) or not options:
        return {before: options}
    parts = [flat(value, f"{before}.{name}" if before else str(name)) for name, value in options.items()]
    return {name: value for part in parts for name, value in part.items()}


def resolved() -> dict[str, Any]:
    """Every option of the smoke experiment with its value, as a run stores them."""
    base, own = (yaml.safe_load((ROOT / "experiments" / name).read_text()) for name in ("_base.yaml", "smoke.yaml"))
    return {**flat(base), **flat(own)}


def put(options: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        options = options.setdefault(section, {}) if isinstance(options.get(section, {}), dict) else {}
    options[last] = value


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    """One to three options with other values, of which a name may have a slip."""
    names = sorted(resolved().keys() - LEFT_ALONE)
    options: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        slip = draw(st.integers(0, 9))
        wrong = name[: len(name) // 2] + name[len(name) // 2 + 1 :] if slip == 0 else name
        put(options, wrong, draw(VALUES))
    return options


def outcome(options: dict[str, Any], folder: Path) -> tuple[int, str]:
    """The exit code and the errors of the command with a file of these options."""
    file = folder / "mutated.yaml"
    file.write_text(yaml.safe_dump(options, allow_unicode=True), encoding="utf-8")
    files = [f"--config=experiments/{name}.yaml" for name in ("_base", "smoke")]
    result = launch(*files, f"--config={file}", f"--sequence.run_dir={NOWHERE}", "--sequence.threads=1")
    return result.code, result.err


def check(options: dict[str, Any], folder: Path) -> None:
    code, errors = outcome(options, folder)
    lines = [line for line in errors.splitlines() if line.strip()]
    assert code == 2, (options, code, errors[-2000:])
    assert "Traceback" not in errors, options
    assert lines[-1].startswith("error: "), (options, errors[-2000:])
    assert len([line for line in lines if line.startswith("error: ")]) == 1, (options, errors)


def test_the_unmutated_one_comes_to_its_folder(tmp_path: Path) -> None:
    code, errors = outcome({}, tmp_path)
    assert code == 2
    assert f"{NOWHERE}: cannot be written" in errors


@pytest.mark.parametrize("name", ["model.warmup", "model.backbone.dtype", "data.batch_size", "sequence.report"])
def test_null_is_refused_where_a_value_is_needed(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    put(options, name, None)
    assert outcome(options, tmp_path) == (2, f"error: {name} is empty; give it a value, or leave it out\n")


def test_null_is_taken_where_it_means_something(tmp_path: Path) -> None:
    options = {"data": {"train_samples": None}, "model": {"backbone": {"revision": None}}, "sequence": {"name": None}}
    assert f"{NOWHERE}: cannot be written" in outcome(options, tmp_path)[1]


@pytest.mark.parametrize(
    "text", ["${data.seed}", "${oc.env:NO_SUCH_VARIABLE}", "${", "${a.b", "${foo:1}", "${model.schedule}", "${model}"]
)
def test_a_reference_to_nothing_is_refused_by_its_option(text: str, tmp_path: Path) -> None:
    code, errors = outcome({"model": {"schedule": text}}, tmp_path)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: model.schedule: its ${..} has no value (")


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_mutated_configurations_are_accepted_or_refused_in_one_line(part: int, tmp_path: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"

    @seed(part)
    @settings(
        max_examples=int(os.environ.get("MUTATIONS", 25)),
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations())
    def holds(options: dict[str, Any]) -> None:
        check(json.loads(json.dumps(options)), tmp_path)

    holds()
