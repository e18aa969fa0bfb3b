"""Probes and costs: what is measured, that it is logged and kept, and that training does not notice."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from callbacks import Probes
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.evaluation.likelihood import log_likelihoods
from cl_lightning.sequence.folder import read_record
from cl_lightning.sequence.run import SequenceRun
from tests.ragged_words import small_run, words

ORDER = ("one", "two")


class Drawing(Probes):
    """Negative control: probes that draw from the generator that dropout draws from."""

    def _probe(self) -> None:
        torch.rand(1)
        super()._probe()


def run_with(folder: Path, probes: Probes | None) -> SequenceRun:
    """Two tasks of three steps each, with dropout, whose masks are drawn from torch's own generator."""
    observers = {} if probes is None else {"probes": probes}
    run = small_run(folder, words(ORDER), observers=observers, adapter=SeqLoRA(rank=2, alpha=4, dropout=0.2), lr=0.05)
    run.run()
    run.folder.close()
    return run


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> SequenceRun:
    return run_with(tmp_path_factory.mktemp("probed") / "run", Probes(every=2, samples=2))


def branches(run: SequenceRun) -> dict[str, torch.Tensor]:
    files = [run.folder.path / f"adapters/{task}/adapter.safetensors" for task in ORDER]
    return {f"{file}/{key}"[-60:]: tensor for file in files for key, tensor in load_file(file).items()}


def test_training_is_the_same_with_and_without(probed: SequenceRun, tmp_path: Path) -> None:
    bare, drawing = run_with(tmp_path / "bare", None), run_with(tmp_path / "drawing", Drawing(every=2))
    alike = [[torch.equal(a, b) for a, b in zip(branches(probed).values(), branches(other).values(), strict=True)]
             for other in (bare, drawing)]  # fmt: skip
    assert all(alike[0])
    assert not all(alike[1]), "the control moves the dropout masks"
    assert bare.record.matrix == probed.record.matrix


def test_probes_are_logged_over_the_steps_of_later_tasks(probed: SequenceRun) -> None:
    rows = list(csv.DictReader((probed.folder.path / "logs/attempt_0/metrics.csv").open()))
    steps = {task: [int(float(row["cl/step"])) for row in rows if row[f"probe/{task}/loss"]] for task in ORDER}
    assert steps == {"one": [0, 2, 3, 3, 5, 6], "two": [3, 5, 6]}, "at the start, every 2 steps, and at the end"
    last = [row for row in rows if row["probe/one/loss"]][-1]
    module, task = probed.module, probed.data.tasks[0]
    found = log_likelihoods(module.llm, module.answer_logits, module.tokenizer.pad_token_id, task.test[:2], 8)
    tokens = sum(len(e.answer_ids) for e in task.test[:2])
    assert float(last["probe/one/loss"]) == pytest.approx(-sum(value for value, _ in found) / tokens, rel=1e-6)
    assert float(last["probe/one/exact"]) == 100 * sum(right for _, right in found) / 2


def test_their_cost_is_in_the_record_and_not_in_training(probed: SequenceRun) -> None:
    record = read_record(probed.folder.path)
    (table,) = record["tables"]["probes"]
    assert [row[:3] for row in table["rows"]] == [["one", 3, 1], ["two", 3, 2]]
    for row in table["rows"]:
        cost = record["costs"][row[0]]["seconds"]
        assert row[3] == cost["probes"] > 0
        assert row[4] == pytest.approx(100 * cost["probes"] / cost["training"])


def test_costs_of_each_task_are_kept_and_logged(probed: SequenceRun) -> None:
    costs = read_record(probed.folder.path)["costs"]
    assert [*costs] == list(ORDER)
    rows = list(csv.DictReader((probed.folder.path / "logs/attempt_0/metrics.csv").open()))
    (first, second) = (row for row in rows if row["cost/tokens_per_second"])
    for task, row in zip(ORDER, (first, second), strict=True):
        cost = costs[task]
        assert {"start", "training", "end", "scoring"} <= cost["seconds"].keys() == cost["peak_bytes"].keys()
        assert all(seconds >= 0 for seconds in cost["seconds"].values())
        assert all(2**20 < peak < 2**40 for peak in cost["peak_bytes"].values())
        file = probed.folder.path / f"adapters/{task}/adapter.safetensors"
        assert cost["stored_bytes"] == file.stat().st_size
        assert cost["stored_parameters"] == sum(t.numel() for t in load_file(file).values())
        assert float(row["cost/training/seconds"]) == pytest.approx(cost["seconds"]["training"])
        assert float(row["cost/stored_bytes"]) == cost["stored_bytes"]
    tokens = [float(row["cl/tokens"]) for row in (first, second)]
    for cost, new in zip(costs.values(), (tokens[0], tokens[1] - tokens[0]), strict=True):
        assert cost["tokens_per_second"] * cost["seconds"]["training"] == pytest.approx(new)


def test_costs_outlive_a_resume(probed: SequenceRun, tmp_path: Path) -> None:
    before = read_record(probed.folder.path)["costs"]
    again = small_run(probed.folder.path, words(ORDER), observers={"probes": Probes()}, adapter=SeqLoRA(2, 4), lr=0.05)
    again.run()
    assert again.record.costs.tasks == before


@pytest.mark.parametrize("option", ["every", "samples", "batch_size"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(ConfigError, match=f"observers.probes.{option}: 0 must be 1 or more"):
        Probes(**{option: 0})
