"""Preset official_v2_llama: its numbers against the published Llama code's rule, written anew in numpy and float64.

p_0 = sum of the prompt's embeddings without token 1 / longest prompt's length,  p_1 = G_1 p_0,  p_2 = SiLU(G_2 p_1)
a = |2 sigmoid(b) - 1|,  b = 4 cos(key, p_2)
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from callbacks.gate_orthogonalization import GateOrthogonalization
from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.data.base import Example
from cl_lightning.data.collate import prompt_batch, training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.model.module import ContinualLM
from tests.adapters.test_branch_strategies import begin
from tests.conftest import ROOT

Array = np.ndarray
PRESET = yaml.safe_load((ROOT / "experiments/presets/official_v2_llama.yaml").read_text())
BLOCKS, SHARE, TASKS, SIZE = 4, 0.995, 15, 5


def examples(seed: int, count: int = 12) -> list[Encoded]:
    """Prompts of ragged lengths that begin with token 1 and have another one inside, with answers longer than some."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(3 + 40 * seed, 60 + 40 * seed, rng.integers(low, high)).tolist())

    return [Encoded(Example(f"t/{i}", "", ""), (1, *ids(3, 12), 1, *ids(1, 4)), ids(2, 9), 0) for i in range(count)]


class OneRank:
    """What the callback asks of the run."""

    order = ("a", "b")

    def __init__(self, module: ContinualLM) -> None:
        self.module, self.sets = module, [examples(0), examples(1)]
        self.data = SimpleNamespace(tasks=[SimpleNamespace(test=s) for s in self.sets], draw=self.draw)
        self.write_table = self.log = self.say = lambda *_: None

    def draw(self, task: int, count: int, purpose: str) -> list[Encoded]:
        return self.sets[task]

    def batches(self, chosen: list[Encoded], size: int) -> Iterator[dict[str, Any]]:
        for start in range(0, len(chosen), size):
            yield training_batch(chosen[start : start + size], 0)


# ---- the published rule --------------------------------------------------------------------------------------


def features(module: ContinualLM, prompts: list[tuple[int, ...]], G1: Array, G2: Array) -> list[Array]:
    """p_0, p_1, p_2 of a batch of prompts."""
    embedding = module.llm.get_input_embeddings().weight.detach().numpy()
    longest = max(map(len, prompts))
    p0 = np.stack([sum(embedding[i] for i in p if i != 1) / longest for p in prompts])
    p1 = p0 @ G1.T
    p2 = p1 @ G2.T
    return [p0, p1, p2 / (1 + np.exp(-p2))]


def gate(module: ContinualLM, prompts: list[tuple[int, ...]], weights: list[Array]) -> Array:
    p2, key = features(module, prompts, *weights[:2])[2], weights[2][0]
    cosine = p2 @ key / np.linalg.norm(p2, axis=1) / np.linalg.norm(key)
    return np.abs(2 / (1 + np.exp(-4 * cosine)) - 1)


def covariances(module: ContinualLM, chosen: list[Encoded], weights: list[Array]) -> list[Array]:
    """Running means over batches; that of p_1 with a count that is ahead by one batch."""
    C = [np.zeros((n, n)) for n in (64, 50, 64)]
    seen = 0
    for start in range(0, len(chosen), SIZE):
        prompts = [e.prompt_ids for e in chosen[start : start + SIZE]]
        for index, p in enumerate(features(module, prompts, *weights[:2])):
            before = seen + (len(p) if index == 1 else 0)
            C[index] = (C[index] * before + p.T @ p) / (before + len(p))
        seen += len(prompts)
    return C


def grown(M: Array, C: Array, task: int, blocks: int) -> list[Array]:
    """Bases of each block: directions of (I - M M^T) C until lambda^2 reach the share; one fewer in the first task."""
    share, found = SHARE + (1 - SHARE) * task / TASKS, []
    for rows, part in zip(np.split(M, blocks), np.split(C, blocks), strict=True):
        size = len(rows)
        at = slice(len(found) * size, (len(found) + 1) * size)
        own, block = rows[:, np.abs(rows).sum(0) > 0], part[:, at]
        total = (np.linalg.svd(block, compute_uv=False) ** 2).sum()
        U, S, _ = np.linalg.svd(block - own @ own.T @ block)
        if task == 0:
            found.append(U[:, : max(1, int((np.cumsum(S**2) / total < share).sum()))])
            continue
        held, taken = 1 - (S**2).sum() / total, 0
        while held < share:
            held, taken = held + S[taken] ** 2 / total, taken + 1
        found.append(np.hstack([own, U[:, :taken]]))
    return found


def projector(parts: list[Array]) -> Array:
    out = np.zeros((sum(map(len, parts)),) * 2)
    at = 0
    for part in parts:
        out[at : at + len(part), at : at + len(part)] = part @ part.T
        at += len(part)
    return out


# ---- against it ----------------------------------------------------------------------------------------------


@pytest.fixture
def module(tiny: Callable[..., ContinualLM]) -> ContinualLM:
    options = PRESET["model"]["adapter"]["init_args"]
    module = tiny("float64", GainLoRA(IncLoRA(rank=2), **options))
    begin(module, 0)
    return module


def weights_of(module: ContinualLM) -> list[Array]:
    return [w.detach().numpy().copy() for w in module.adapter.gates.new]


@torch.no_grad()
def test_gates_in_training_at_boundaries_and_in_generation(module: ContinualLM) -> None:
    chosen = examples(0)
    prompts, weights = [e.prompt_ids for e in chosen], weights_of(module)
    wanted = gate(module, prompts, weights)
    batch = training_batch(chosen, 0)
    assert batch["input_ids"].shape[1] > max(map(len, prompts)) + 1, "answers make the batch wider than its prompts"
    generation = prompt_batch(prompts, 0, True, [e.own for e in chosen])
    for given in (batch, generation):
        a = module.adapter.forward_kwargs(given)["gates"][:, 0].numpy()
        assert np.abs(a - wanted).max() < 1e-12
    embedded, adapter = module.llm.get_input_embeddings()(batch["input_ids"]), module.adapter
    whole = adapter.gates(adapter._pool(embedded, batch["prompt_mask"]))[:, 0].numpy()
    assert np.abs(whole - wanted).max() > 1e-3, "negative control: with token 1"
    module.adapter.skip_token = None
    counted = module.adapter.forward_kwargs(batch)["gates"][:, 0].numpy()
    assert np.abs(counted - wanted).max() > 1e-3


@torch.no_grad()
def test_the_width_of_answers_is_left_out(module: ContinualLM) -> None:
    """b does not depend on the length of p_0 up to SiLU, so that it shows in p_0."""
    chosen = examples(0)
    prompts = [e.prompt_ids for e in chosen]
    batch, weights = training_batch(chosen, 0), weights_of(module)
    p0 = features(module, prompts, *weights[:2])[0]
    assert np.abs(module.adapter.pooled(batch).numpy() - p0).max() < 1e-14
    wide = p0 * max(map(len, prompts)) / batch["input_ids"].shape[1]
    assert np.abs(wide - p0).max() > 1e-2, "negative control: divided by the width of prompt and answer"


def test_two_tasks_of_subspaces_keys_and_updates(module: ContinualLM) -> None:
    run = OneRank(module)
    options = PRESET["boundary"]["gates"]["init_args"]
    rule, gates = GateOrthogonalization(**options, batch_size=SIZE), module.adapter.gates
    drawn = weights_of(module)
    rule.on_task_start(run, 0)
    assert np.abs(weights_of(module)[2] - drawn[2]).max() < 1e-12, "the first key is as it was drawn"
    rule.on_task_end(run, 0)
    bases = [np.zeros((n, 0)) for n in (64, 50, 64)]
    kept = [
        grown(M, C, 0, blocks)
        for M, C, blocks in zip(bases, covariances(module, run.sets[0], drawn), (BLOCKS, 1, BLOCKS), strict=True)
    ]
    for ours, parts in zip(rule.bases, kept, strict=True):
        assert np.abs((ours @ ours.T).numpy() - projector(parts)).max() < 1e-8
    module.adapter.end_task(0)
    begin(module, 1)
    fresh = weights_of(module)
    rule.on_task_start(run, 1)
    outside = np.eye(64) - projector(kept[2])
    key = fresh[2] @ outside
    wanted = key / np.linalg.norm(key) * 64 / np.sqrt(3)
    assert np.abs(weights_of(module)[2] - wanted).max() < 1e-8
    assert abs(np.linalg.norm(fresh[2]) - 64 / np.sqrt(3)) > 1, "negative control: the drawn key's norm"
    started = weights_of(module)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for w in gates.new:
            w += 0.1 * torch.randn(w.shape, generator=rng, dtype=torch.float64)
    stepped = weights_of(module)
    rule._project(gates.new)
    for now, old, step, parts in zip(weights_of(module), started, stepped, kept, strict=True):
        P = projector(parts)
        assert np.abs(now - (step - (step - old) @ P)).max() < 1e-9
        assert np.abs((step - old) @ P).max() > 1e-2
    rule.on_task_end(run, 1)
    for index, (C, blocks) in enumerate(
        zip(covariances(module, run.sets[1], weights_of(module)), (BLOCKS, 1, BLOCKS), strict=True)
    ):
        columns = sum(part.shape[1] for part in kept[index])
        M = np.zeros((len(C), columns))
        row = column = 0
        for part in kept[index]:
            M[row : row + len(part), column : column + part.shape[1]] = part
            row, column = row + len(part), column + part.shape[1]
        parts = grown(M, C, 1, blocks)
        ours = rule.bases[index]
        assert ours.shape[1] == sum(p.shape[1] for p in parts) > columns
        assert np.abs((ours @ ours.T).numpy() - projector(parts)).max() < 1e-7
