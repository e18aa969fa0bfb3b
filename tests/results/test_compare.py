"""Several runs in one table: what is averaged, what is kept apart and told, paired differences, references."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
import yaml

from cl_lightning.commands.compare import render
from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.common.files import to_jsonl
from cl_lightning.results.comparison.runs import find
from cl_lightning.results.comparison.table import compare
from cl_lightning.sequence.folder import RunFolder, read_record

CONFIG: dict[str, Any] = {
    "model": {
        "backbone": {"name": "tiny", "dtype": "float32"},
        "adapter": {"class_path": "cl_lightning.adapters.SeqLoRA", "init_args": {"rank": 8}},
        "lr": 0.001,
    },
    "data": {
        "benchmark": {"class_path": "cl_lightning.data.TRACE"}, "root": "/data", "eval_batch_size": 4, "order": None,
        "train_samples": 100, "random_order": False,
    },
    "boundary": {"memory": None},
    "trainer": {"devices": 1, "max_steps": -1, "gradient_clip_val": 1.0},
}  # fmt: skip
#: Scores of two tasks' test examples after the first and the second task: R = [[75, -], [50, 80]].
PLAIN = {(0, 0): [100.0, 100.0, 100.0, 0.0], (1, 0): [100.0, 0.0, 100.0, 0.0], (1, 1): [90.0, 70.0]}
Scores = Mapping[tuple[int, int], Sequence[float]]
MakeRun = Callable[..., Path]


#: What a record's metrics hold where nothing was measured.
NOTHING_MORE: dict[str, Any] = {
    "metric_of_task": {}, "by_likelihood": [], "trained": [], "intervals": {}, "majority": None, "copy_prompt": None,
    "baseline_intervals": {}, "further": {}, "budgets": {},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> MakeRun:
    """Write a run folder as a run does: make(name, seed, scores, order=..., done=..., **{"data.x": value})."""

    def make(
        name: str,
        seed: int = 0,
        scores: Scores = PLAIN,
        order: tuple[str, ...] = ("FOMC", "Py150"),
        done: int | None = None,
        facts: Mapping[str, Any] | None = None,
        protocol: str = "sequential",
        zero_shot: Sequence[Sequence[float]] | None = None,
        **options: Any,
    ) -> Path:
        config = copy.deepcopy(CONFIG)
        for option, value in options.items():
            *where, last = option.split(".")
            place = config
            for key in where:
                place = place[key]
            place[last] = value
        trained = ("joint",) if protocol == "joint" else order
        folder = RunFolder(tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        folder.path.mkdir()
        folder.write("config.yaml", yaml.safe_dump({"seed_everything": seed, **config}).encode())
        before = {("zero-shot", j): values for j, values in enumerate(zero_shot or [])}
        for (after, j), values in {**{(trained[i], j): v for (i, j), v in scores.items()}, **before}.items():
            rows = [
                {"id": f"{order[j]}/{k}", "prediction": "", "reference": "", "score": s} for k, s in enumerate(values)
            ]
            folder.write(f"predictions/{after}_{order[j]}.jsonl", to_jsonl(rows))
        T = range(len(order))
        R = [[float(np.mean(scores[i, j])) if (i, j) in scores else None for j in T] for i in range(len(trained))]
        record = {
            "identity": "x", "order": list(trained), "columns": list(order), "protocol": protocol,
            "done": len(R[:done]), "R": R[:done],
            "zero_shot": zero_shot and [float(np.mean(values)) for values in zero_shot],
            "clock": {}, "attempts": 1, "tables": {}, "adapter": {}, "benchmark": "TRACE files", "template": {},
            "versions": {},
            "metrics": {**NOTHING_MORE, "metric_of_task": dict.fromkeys(order, "accuracy")},
            "experiment": name, "data": "TRACE files", "base": "b" * 16, "seed": seed, "continues": None,
            "fingerprints": dict.fromkeys(order, f"drawn by {seed}"), "sources": dict.fromkeys(order, "whole"),
        }  # fmt: skip
        metrics = {**record["metrics"], **(facts or {}).get("metrics", {})}
        folder.commit({**record, **(facts or {}), "metrics": metrics})
        return folder.path

    return make


LOW = {(0, 0): [50.0, 40.0, 60.0, 10.0], (1, 0): [30.0, 0.0, 30.0, 0.0], (1, 1): [40.0, 20.0]}  # R = [[40], [15, 30]]
OTHER = {"model.lr": 0.5}  # another method


def shifted(scores: Scores, by: float) -> dict[tuple[int, int], list[float]]:
    return {cell: [s + by for s in values] for cell, values in scores.items()}


def test_seeds_of_one_configuration_are_averaged(run: MakeRun) -> None:
    table = compare([run("lora", 1), run("lora", 2, LOW)])
    assert (table.methods, table.columns) == (["lora"], ["A"])
    expected = {"ap": [77.5, 35.0], "fp": [65.0, 22.5], "forget_T": [12.5, 12.5], "bwt": [-25.0, -25.0]}
    for metric, values in expected.items():
        found = table.aggregate(0, 0, metric)
        assert (found.mean, found.sd, found.seeds) == (sum(values) / 2, pytest.approx(stdev(values)), 2)
        assert found.interval[0] <= found.mean <= found.interval[1]
    assert table.over_orders(0, "fp") == []


def test_one_seed_has_no_deviation(run: MakeRun) -> None:
    assert compare([run("lora")]).aggregate(0, 0, "fp").sd is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data.train_samples": 500}, "data.train_samples (500, not 100)"),
        ({"trainer.max_steps": 10}, "trainer.max_steps (10, not -1)"),
        ({"model.backbone": {"name": "tiny", "dtype": "bfloat16"}}, "base.dtype (bfloat16, not float32)"),
        ({"facts": {"base": "c" * 16}}, f"base.hash ({'c' * 16}, not {'b' * 16})"),
        ({"facts": {"sources": {"FOMC": "other", "Py150": "whole"}}}, "examples of FOMC"),
        (
            {"facts": {"benchmark": "built-in sample, NOT TRACE"}},
            "data.what (built-in sample, NOT TRACE, not TRACE files)",
        ),
        ({"order": ("Py150", "FOMC")}, "order (Py150 > FOMC, not FOMC > Py150)"),
        (
            {"facts": {"metrics": {**NOTHING_MORE, "metric_of_task": {"FOMC": "accuracy_trace", "Py150": "accuracy"}}}},
            "metric.FOMC (accuracy_trace, not accuracy)",
        ),
    ],
)
def test_other_data_budgets_models_orders_and_metrics_are_kept_apart_and_listed(
    run: MakeRun, changed: dict[str, Any], message: str
) -> None:
    table = compare([run("lora", 1), run("lora", 2, LOW, **changed)])
    assert (table.methods, table.columns) == (["lora"], ["A", "B"])
    assert [table.aggregate(0, c, "fp").mean for c in (0, 1)] == [65.0, 22.5]
    assert f"B is kept apart from A: other {message}" in table.notes


def test_where_the_data_lies_and_how_it_is_run_keeps_nothing_apart(run: MakeRun) -> None:
    places = {"data.root": "/elsewhere", "data.eval_batch_size": 99, "trainer.devices": 2, "boundary": {}}
    table = compare([run("lora", 1), run("lora", 2, LOW, **places)])
    assert table.aggregate(0, 0, "fp").seeds == 2


def test_methods_of_one_name_are_rows_of_their_own(run: MakeRun) -> None:
    adapter = {"class_path": "cl_lightning.adapters.SeqLoRA", "init_args": {"rank": 16}}
    table = compare([run("lora", 1), run("lora", 1, LOW, **{"model.adapter": adapter}), run("slice", 1, **OTHER)])
    assert table.methods == ["lora (rank=8)", "lora (rank=16)", "slice"]
    assert table.columns == ["A"]


def test_a_method_of_other_classes_is_named_by_them_alone(run: MakeRun) -> None:
    """All options of a class differ from what another class has; together they were names of 1,100 characters."""
    many = {f"option_{i}": "x" * 30 for i in range(40)}
    big, small = (
        {"init": {"class_path": f"callbacks.{name}", "init_args": of}} for name, of in (("Big", many), ("Small", {}))
    )
    other = {"init": {"class_path": "callbacks.Big", "init_args": {**many, "option_7": 0.0003}}}
    table = compare([run(f"m{i}", 1, facts={"experiment": "m"}, boundary=b) for i, b in enumerate((big, small, other))])
    assert table.methods == [f"m (init=Big option_7={'x' * 19}…)", "m (init=Small)", "m (init=Big option_7=3e-4)"]
    assert max(map(len, table.methods)) < 70


def test_a_name_of_the_users_choice_stands_for_the_experiment(run: MakeRun) -> None:
    table = compare([run("lora", 1, facts={"name": "my try"}), run("slice", 1, **OTHER)])
    assert table.methods == ["my try", "slice"]


def test_differences_are_paired(run: MakeRun) -> None:
    """Five points on every example: an interval without width, where an unpaired one would be wide."""
    table = compare([run("lora", 1, LOW), run("lora", 2, PLAIN), run("more", 1, shifted(LOW, 5.0), **OTHER)])
    found = table.difference(1, 0, 0, "fp")
    assert (found.mean, found.seeds) == (5.0, 1)
    assert found.interval == pytest.approx((5.0, 5.0))
    assert table.difference(1, 0, 0, "forget_T").interval == pytest.approx((0.0, 0.0), abs=1e-9)
    low, high = table.aggregate(1, 0, "fp").interval
    assert high - low > 5
    assert table.difference(0, 0, 0, "fp").mean == 0.0


def test_an_interval_of_a_difference_by_hand(run: MakeRun) -> None:
    """One task, 100 examples, better on 30 and worse on 10: 20 -+ 1.96 x 100 sqrt((.4 - .2^2) / 100)."""
    a = {(0, 0): [0.0] * 30 + [100.0] * 10 + [0.0] * 60}
    b = {(0, 0): [100.0] * 30 + [0.0] * 10 + [0.0] * 60}
    table = compare([run("a", 1, a, order=("FOMC",)), run("b", 1, b, order=("FOMC",), **OTHER)])
    found = table.difference(1, 0, 0, "fp")
    assert found.mean == 20.0
    assert found.interval == pytest.approx((20 - 11.76, 20 + 11.76), abs=1.5)


def test_what_shares_no_seed_is_not_paired(run: MakeRun) -> None:
    table = compare([run("a", 1), run("b", 2)])
    assert table.difference(1, 0, 0, "fp") is None


def test_task_orders_mean_and_worst(run: MakeRun) -> None:
    table = compare([run("a", 1), run("a", 2, LOW), run("a", 1, LOW, order=("Py150", "FOMC")), run("b", 1, **OTHER)])
    (found,) = table.over_orders(table.methods.index("a"), "fp")
    assert (found.mean, found.worst, found.orders) == ((43.75 + 22.5) / 2, 22.5, 2)
    assert table.over_orders(table.methods.index("b"), "fp") == []


def test_orders_drawn_by_seed_are_one_column(run: MakeRun) -> None:
    drawn = {"data.random_order": True}
    table = compare([run("a", 1, **drawn), run("a", 2, LOW, order=("Py150", "FOMC"), **drawn)])
    assert table.columns == ["A"]
    assert table.aggregate(0, 0, "fp").mean == 43.75
    assert [(o.mean, o.worst, o.orders) for o in table.over_orders(0, "fp")] == [(43.75, 22.5, 2)]


def test_what_was_left_out_of_which_task_keeps_nothing_apart(run: MakeRun) -> None:
    """Its text depends on the order; options and checksums of the tasks are compared."""
    one = {"data": "TRACE files, left out: FOMC 8 leaked, Py150 1 leaked", "benchmark": "TRACE files"}
    other = {"data": "TRACE files, left out: Py150 1 leaked, FOMC 8 leaked", "benchmark": "TRACE files"}
    drawn = {"data.random_order": True}
    table = compare([run("a", 1, facts=one, **drawn), run("a", 2, LOW, ("Py150", "FOMC"), facts=other, **drawn)])
    assert table.columns == ["A"]
    assert table.aggregate(0, 0, "fp").seeds == 2
    assert f"data: {one['data']} / {other['data']}; scored by: accuracy; base" in table.notes[0]
    table = compare([run("b", 1, facts=one), run("b", 1, LOW, ("Py150", "FOMC"), facts=other)])
    assert [o.orders for o in table.over_orders(0, "fp")] == [2]


def test_other_budgets_are_no_orders_of_one_another(run: MakeRun) -> None:
    table = compare([run("a", 1), run("a", 1, order=("Py150", "FOMC"), **{"data.train_samples": 500})])
    assert table.over_orders(0, "fp") == []


def test_references_are_one_task_runs_that_agree_in_all_but_the_order(run: MakeRun) -> None:
    def alone(task: str, score: float, seed: int = 1, **options: Any) -> Path:
        return run("alone", seed, {(0, 0): [score]}, order=(task,), **options)

    sequence = run("lora", 1)
    references = [alone("FOMC", 80.0), alone("FOMC", 90.0, 2), alone("Py150", 84.0)]
    table = compare([sequence], references)
    assert table.value(table.cells[0, 0][0], "intransigence") == (85 + 84) / 2 - 77.5
    found = table.aggregate(0, 0, "fwt_sapt")
    assert found.mean == 77.5 - 84.5
    assert found.interval[0] < found.mean < found.interval[1]
    ask = [str(sequence), "--metrics", "intransigence", "--references"]
    made, _ = render([*ask, *map(str, references)])
    assert "| lora | 7.00 [" in made
    assert "- reference: Py150: alone, seed 1" in made
    other = alone("Py150", 84.0, **{"data.train_samples": 5})  # another budget
    for lacking in ([references[0]], [references[0], other]):
        with pytest.raises(ConfigError, match="of task 1 is missing"):
            render([*ask, *map(str, lacking)])


WHOLE = {**PLAIN, (0, 1): [60.0, 20.0]}
START = [[0.0, 0.0, 100.0, 0.0], [30.0, 10.0]]


def test_forward_transfer_where_it_was_scored(run: MakeRun) -> None:
    """GEM's: 40 on the second task just before it is learnt, 20 zero-shot; its examples differ by 30 and by 10."""
    made = run("lora", 1, WHOLE, zero_shot=START)
    found = compare([made]).aggregate(0, 0, "fwt_gem")
    assert found.mean == 20.0
    assert found.interval == pytest.approx((10.0, 30.0)), "both rows see the same draws of two examples"
    assert "| lora | 20.00 [10.00, 30.00] | 65.00 [" in render([str(made), "--metrics", "fwt_gem", "fp"])[0]
    same = run("more", 1, shifted(WHOLE, 0.0), zero_shot=[START[0], [25.0, 5.0]], **OTHER)
    difference = compare([made, same]).difference(1, 0, 0, "fwt_gem")
    assert (difference.mean, difference.interval) == (5.0, pytest.approx((5.0, 5.0)))
    joint = run("joint", 1, JOINT, protocol="joint")
    assert compare([made, joint]).aggregate(1, 0, "fwt_gem") is None
    lacking = {"zero_shot of task 0 is missing": run("a"), "not scored after task 0": run("a", zero_shot=START)}
    for output, path in lacking.items():
        with pytest.raises(ConfigError, match=rf"fwt_gem: .*{output}; .*make score RUN=... EVALUATE=1") as error:
            render([str(path), "--metrics", "fwt_gem"])
        assert str(path) in str(error.value)


JOINT = {(0, 0): [90.0, 80.0], (0, 1): [70.0]}
INDEPENDENT = {(0, 0): [88.0], (1, 1): [82.0, 80.0]}


def test_joint_training_and_tasks_alone_are_rows_with_what_they_have(run: MakeRun) -> None:
    runs = [run("lora"), run("joint", 0, JOINT, protocol="joint"), run("alone", 0, INDEPENDENT, protocol="independent")]
    table = compare(runs)
    assert (table.methods, table.columns) == (["lora", "joint", "alone"], ["A"])
    assert [table.aggregate(1, 0, m) and table.aggregate(1, 0, m).mean for m in ("ap", "fp")] == [None, 77.5]
    assert [table.aggregate(2, 0, m) and table.aggregate(2, 0, m).mean for m in ("ap", "fp")] == [84.5, None]
    assert table.difference(1, 0, 0, "fp").mean == 12.5
    assert table.difference(1, 0, 0, "ap") is None
    made, _ = render([str(path) for path in runs])
    assert "| joint |  | 77.50 [" in made and "| alone | 84.50 [" in made
    assert "forget_T" not in render([str(runs[1]), "--format=csv"])[0]


@pytest.mark.parametrize(("scores", "protocol"), [(JOINT, "joint"), (INDEPENDENT, "independent")])
def test_joint_training_and_tasks_alone_are_references(run: MakeRun, scores: Scores, protocol: str) -> None:
    reference = run("reference", 7, scores, order=("FOMC", "Py150"), protocol=protocol, **OTHER)
    table = compare([run("lora")], [reference])
    expected = {"joint": 77.5, "independent": 84.5}[protocol] - 77.5
    assert table.aggregate(0, 0, "intransigence").mean == expected
    with pytest.raises(ValueError, match="of task 0 is missing"):
        compare([run("lora")], [run("sequence", 3)]).aggregate(0, 0, "intransigence")


# --- what is refused or left out ----------------------------


def test_unfinished_runs_are_left_out_and_named(run: MakeRun) -> None:
    half = run("lora", 2, done=1)
    table = compare([run("lora", 1), half])
    assert table.aggregate(0, 0, "fp").seeds == 1
    assert f"left out: {half}, 1 of 2 tasks done" in table.notes
    with pytest.raises(StateError, match="no finished run to compare; left out"):
        compare([half])


def test_one_run_twice_is_refused(run: MakeRun) -> None:
    with pytest.raises(StateError, match=r"are the same run \(seed 1\)"):
        compare([run("lora", 1), run("lora", 1)])


def test_damaged_or_foreign_predictions_are_refused(run: MakeRun) -> None:
    path = run("lora", 1)
    file = path / "predictions" / "Py150_FOMC.jsonl"
    file.write_bytes(file.read_bytes().replace(b"0.0", b"9.0"))
    with pytest.raises(StateError, match=r"Py150_FOMC\.jsonl: damaged"):
        compare([path]).aggregate(0, 0, "fp")
    folder = RunFolder(other := run("lora", 2))
    folder.record = read_record(other)
    folder.files = folder.record["files"]
    row = {"id": "FOMC/77", "prediction": "", "reference": "", "score": 0.0}
    folder.write("predictions/Py150_FOMC.jsonl", to_jsonl([row] * 4))
    folder.commit(folder.record)
    with pytest.raises(StateError, match=r"Py150_FOMC\.jsonl holds other examples than earlier"):
        compare([other]).aggregate(0, 0, "fp")


def test_folders_of_runs_and_globs(run: MakeRun, tmp_path: Path) -> None:
    paths = [run("a", 1), run("b", 1)]
    assert find([str(tmp_path)]) == find([f"{tmp_path}/*"]) == find(map(str, paths)) == paths
    assert find([str(paths[0]), f"{tmp_path}/a*"]) == paths[:1]
    with pytest.raises(StateError, match=r"nothing\*: no run folder"):
        find([f"{tmp_path}/nothing*"])
    with pytest.raises(StateError, match=r"^: no run folder"):
        find([""])


def test_a_folder_may_have_the_name_of_a_glob(run: MakeRun, tmp_path: Path) -> None:
    made = {name: run("a", 1).rename(tmp_path / name) for name in ("runs[1]", "runs1", "a*", "ab")}
    for name, path in made.items():
        assert find([str(path)]) == [path], name
    (tmp_path / "all[2]").mkdir()
    inside = made["ab"].rename(tmp_path / "all[2]" / "ab")
    assert find([str(tmp_path / "all[2]")]) == [inside]
    assert find([f"{tmp_path}/runs?*"]) == [made["runs1"], made["runs[1]"]]
