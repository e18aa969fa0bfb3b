"""AimMerging: its turns and merges in a real run against the equation, on parameters noted beside it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from callbacks.aim_merging import AimMerging, signals, weights
from callbacks.ewc import EWC
from callbacks.replay_buffer import ReplayBuffer
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.commands.execution import check_together
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.run import SequenceRun
from tests.ragged_words import RaggedWords, small_run, words
from tests.runs import continued_and_whole, record

ORDER = ("two", "four")
TURN, EPOCHS = 2, 2


class Noted(TaskCallback):
    """Notes all trained numbers, right after each optimiser step and once all callbacks have seen it."""

    def on_sequence_start(self, run: Any) -> None:
        self.stepped: list[list[Tensor]] = []
        self.left: list[list[Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        self.stepped.append([])
        self.left.append([numbers(optimizer)])
        optimizer.register_step_post_hook(lambda *_: self.stepped[-1].append(numbers(optimizer)))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if len(self.left[-1]) <= trainer.global_step:
            self.left[-1].append(numbers(trainer.optimizers[0]))


def numbers(optimizer: torch.optim.Optimizer) -> Tensor:
    return torch.cat([p.detach().flatten() for g in optimizer.param_groups for p in g["params"]])


def merged(folder: Path, rule: AimMerging, accumulate: int = 1) -> tuple[Noted, SequenceRun]:
    notes, data = Noted(), words(ORDER, epochs=EPOCHS)
    boundary = {"memory": ReplayBuffer(6), "merging": rule}
    run = small_run(folder, data, boundary, {"noted": notes}, accumulate=accumulate, lr=0.01)
    try:
        run.run()
    finally:
        run.folder.close()
    return notes, run


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_pair_of_turns_is_merged_by_the_equation(tmp_path: Path, accumulate: int) -> None:
    rule = AimMerging(TURN)
    notes, _ = merged(tmp_path, rule, accumulate)
    assert len(notes.stepped[0]) == 3 * EPOCHS, "nine examples in batches of four; there is no memory yet"
    assert all(map(torch.equal, notes.stepped[0], notes.left[0][1:])), "nothing is merged in the first task"
    stepped, left = notes.stepped[1], notes.left[1]
    assert len(stepped) == 2 * 3 * EPOCHS, "as many steps on memory"
    # Each epoch: two steps on new examples, two on memory; one on the example that is left, one on memory.
    start, ends = 0, {4 + 6 * k: 2 + 6 * k for k in range(EPOCHS)} | {6 + 6 * k: 5 + 6 * k for k in range(EPOCHS)}
    for step in range(1, len(stepped) + 1):
        if step not in ends:
            assert torch.equal(left[step], stepped[step - 1])
            continue
        between = stepped[ends[step] - 1]
        by_hand = left[start] + 0.6 * (between - left[start]) + 0.4 * (stepped[step - 1] - between)
        torch.testing.assert_close(left[step], by_hand, rtol=0, atol=1e-14)
        assert not torch.allclose(left[step], stepped[step - 1], rtol=0, atol=1e-4), "the control: no merge"
        start = step
    assert rule.rows == [["four", 2 * EPOCHS, 0]]


def test_the_signal_changes_the_weights(tmp_path: Path) -> None:
    # Nine steps of one example each: a turn of eight, of which the last two can signal, and one of one.
    rule, notes, data = AimMerging(8, threshold=1e-6), Noted(), words(ORDER, batch_size=1)
    run = small_run(tmp_path, data, {"memory": ReplayBuffer(6), "merging": rule}, {"noted": notes}, lr=0.01)
    try:
        run.run()
    finally:
        run.folder.close()
    stepped, left = notes.stepped[1], notes.left[1]
    for new, right in ((0.5, True), (0.6, False)):
        merged = left[0] + new * (stepped[7] - left[0]) + (1 - new) * (stepped[15] - stepped[7])
        assert torch.allclose(left[16], merged, rtol=0, atol=1e-12) == right
    assert rule.rows == [["four", 2, 1]], "a turn of one step cannot signal"


def test_the_watched_loss_is_that_of_memory(tmp_path: Path) -> None:
    rule = AimMerging(TURN)
    _, run = merged(tmp_path, rule)
    run.data.activate(1)
    run.module.adapter.begin_task(1, torch.Generator().manual_seed(0))
    rule.on_task_start(run.context, 1)
    drawn = [e for of in run.boundary["memory"].draw(run.context, 4).values() for e in of]
    batch = next(iter(run.data.boundary_loader(drawn, len(drawn), 0, 1)))
    with torch.no_grad():
        nll = run.module.sample_nll(batch).sum() / (batch["labels"] != -100).sum()
        assert rule._memory_loss(run.module) == pytest.approx(nll.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("losses", "count"),
    [
        ([1, 1, 1, 1, 1, 1, 2, 2], 2),
        ([1, 1, 1, 1, 1, 1, 1.99, 2], 1),
        ([2, 2, 2, 2, 2, 2, 3, 3], 0),
        ([1, 9], 0),
        ([1], 0),
    ],
)
def test_a_signal_is_a_loss_far_above_the_turns_mean(losses: list[float], count: int) -> None:
    assert signals(losses, 2.0) == count


def test_the_four_weights_are_the_codes() -> None:
    found = {(f, t): weights(f, t) for f in (False, True) for t in (70, 71)}
    assert found == {
        (False, 70): (0.6, 0.4),
        (False, 71): pytest.approx((0.5, 0.5)),
        (True, 70): (0.5, 0.5),
        (True, 71): pytest.approx((0.4, 0.6)),
    }


def test_turns_hold_new_examples_alone_and_memory_alone() -> None:
    data = words(ORDER, batch_size=4)
    new = len(data.tasks[1].train)
    data.activate(1)
    data.set_replay(data.tasks[0].train, AimMerging(TURN).mix)
    kinds = [{i < new for i in batch} for batch in data.sampler(0, 1, 1).global_batches()]
    assert kinds == [{True}, {True}, {False}, {False}, {True}, {False}]


def test_a_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    plain = ("--boundary.init=null", "--boundary.memory.train_ratio=0")
    run = continued_and_whole(tmp_path, *plain, "--boundary.merging=AimMerging", "--boundary.merging.turn=2")
    (row,) = record(run)["tables"]["merging"][0]["rows"]
    assert row[0] == "NumGLUE-cm" and row[1] > 0, "turns were merged"


@pytest.mark.parametrize(("option", "value"), [("turn", 0), ("threshold", 0.0), ("threshold", -1.0)])
def test_bad_options_are_one_line(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^boundary.merging.{option}: "):
        AimMerging(**{option: value})


@pytest.mark.parametrize("slots", [{}, {"memory": EWC()}])
def test_it_needs_a_memory_of_examples(slots: dict[str, TaskCallback]) -> None:
    (found,) = AimMerging().check(slots, SeqLoRA())
    assert "add boundary.memory=ReplayBuffer" in found
    assert AimMerging().check({"memory": ReplayBuffer()}, SeqLoRA()) == []


def test_only_one_callback_may_replay() -> None:
    refused = "^boundary.memory and boundary.merging both replay examples; .*use boundary.memory.train_ratio=0$"
    for ratio, outcome in ((0.25, pytest.raises(ConfigError, match=refused)), (0.0, nullcontext())):
        boundary: dict[str, TaskCallback] = {"memory": ReplayBuffer(8, ratio), "merging": AimMerging()}
        with outcome:
            check_together(ContinualLM(), TaskSequence(RaggedWords()), boundary, {})
