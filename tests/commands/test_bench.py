"""`make bench`: one table of all benchmarks, a line for each in the machine's file, and verdicts against a commit."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

#: A benchmark: prints, and writes the result that --json asks for. `{fails}`: its exit code.
SCRIPT = """
import json, sys
(file,) = (a.removeprefix("--json=") for a in sys.argv if a.startswith("--json="))
print("measured", *(a for a in sys.argv[1:] if not a.startswith("--json=")), flush=True)
json.dump({{"name": "one", "machine": "A CPU, 2 of 2 cores, AVX2, load 0.1; torch 2", "ratios": {{"a_over_b": 2.5}},
           "less_is_better": [], "figures": {{}}}}, open(file, "w"))
sys.exit({fails})
"""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks").mkdir()
    for name, fails in (("one", 0), ("two", 3)):
        (tmp_path / "benchmarks" / f"{name}.py").write_text(SCRIPT.format(fails=fails))
    (tmp_path / "benchmarks" / "_common.py").write_text("")
    return tmp_path / "benchmarks"


def test_all_run_though_one_fails_and_the_whole_ones_are_recorded(
    bench: ModuleType, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = bench.scripts(folder, [])
    assert [script.stem for script in chosen] == ["one", "two"]
    assert bench.run_all(chosen, ["--rounds=2"], tmp_path / "results") == 1
    out = capfd.readouterr().out
    assert out.count("measured --rounds=2") == 2
    assert out.endswith("two failed; its output is above\n")
    assert [line.split() for line in out.splitlines() if "a_over_b" in line] == [["one", "a_over_b", "2.50x"]]
    (file,) = (tmp_path / "results").iterdir()
    assert file.name == "a-cpu-2-of-2-cores-avx2.jsonl"
    bench.run_all(chosen[:1], [], tmp_path / "results")
    first, second = map(json.loads, file.read_text().splitlines())
    assert first == second
    assert first["commit"].rstrip("+") and first["ratios"] == {"a_over_b": 2.5}


def test_quick_runs_are_not_recorded(bench: ModuleType, folder: Path, tmp_path: Path) -> None:
    assert bench.run_all(bench.scripts(folder, ["one"]), ["--quick"], tmp_path / "results") == 0
    assert not (tmp_path / "results").exists()


def test_an_unknown_benchmark_is_named(bench: ModuleType, folder: Path) -> None:
    with pytest.raises(SystemExit, match="error: no benchmark 'thre'; valid: one, two"):
        bench.scripts(folder, ["thre"])


def test_a_ratio_is_worse_where_no_run_then_was_as_bad(bench: ModuleType) -> None:
    assert bench.verdict([2.0, 2.2], [1.7, 1.9], less_is_better=False) == "worse"
    assert bench.verdict([2.0, 2.2], [1.7, 2.0], less_is_better=False) == "", "they overlap"
    assert bench.verdict([2.0, 2.2], [2.3, 2.4], less_is_better=False) == "better"
    assert bench.verdict([1.0, 1.1], [1.2, 1.3], less_is_better=True) == "worse"
    assert bench.verdict([1.0, 1.1], [0.9, 0.9], less_is_better=True) == "better"
    assert bench.verdict([], [1.0, 1.0], less_is_better=False) == "", "the benchmark is new"
    assert bench.verdict([2.0], [1.0], less_is_better=False) == "", "one run of each shows no noise"
