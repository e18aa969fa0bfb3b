"""The preset official_v1 over three tasks against a second implementation of the published algorithm. Tiny T5, float64.

The reference below is written from the algorithm's description, shares no code with ours and reads nothing of it but
the order of batches and the random starts: branches are hooks on a plain T5, covariances are full matrices, each update
is projected by itself and rows get their norms back, AdamW is written out.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from callbacks import GateOrthogonalization
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.precision import keep_float64
from tests.commands.test_cli import configs, launch
from tests.conftest import ROOT, save_tiny_t5
from tests.runs import adapters

RANK, ALPHA, LR, SHARE, TASKS = 2, 32, 5e-3, 0.95, ["one", "two", "three"]
OPTIONS = (
    "--model.backbone.dtype=float64", "--model.adapter.branches.targets=[q,v]", f"--model.adapter.branches.rank={RANK}",
    f"--model.adapter.branches.alpha={ALPHA}", "--model.adapter.width=10", f"--model.lr={LR}", "--model.warmup=0",
    "--model.schedule=constant", "--data.benchmark=tests.random_words.RandomWords", f"--data.order=[{','.join(TASKS)}]",
    "--data.train_samples=10", "--data.validation_samples=2", "--data.test_samples=2", "--data.batch_size=4",
    "--data.epochs=3", "--data.max_prompt_tokens=48", f"--boundary.subspaces.share={SHARE}",
    f"--boundary.gates.share={SHARE}", "--boundary.subspaces.batch_size=4", "--boundary.gates.batch_size=4",
    "--sequence.wandb=off", "--sequence.threads=1",
)  # fmt: skip
silu = nn.functional.silu


class Seen:
    """What our run is asked for: its order of batches, and the gates' random starts."""

    def __init__(self) -> None:
        self.run: Any = None
        self.starts: list[list[Tensor]] = []
        self.batches: list[list[dict[str, Any]]] = [[] for _ in TASKS]

    def boundary(self, task: int, slot: str) -> list[dict[str, Any]]:
        return list(self.run.batches(self.run.data.draw(task, 256, slot), 4))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_t5(tmp_path_factory.mktemp("t5"), layers=2, dropout=0.0)


def ours(t5: Path, run: Path, *options: str) -> Seen:
    seen = Seen()
    start, step = GateOrthogonalization.on_task_start, ContinualLM.training_step

    def watch_start(self: GateOrthogonalization, run: Any, task: int) -> None:
        seen.run = run
        seen.starts.append([w.detach().clone() for w in run.module.adapter.gates.new])
        start(self, run, task)

    def watch_step(self: ContinualLM, batch: dict[str, Any], index: int) -> Tensor:
        seen.batches[len(seen.starts) - 1].append(batch)
        return step(self, batch, index)

    with (
        patch.object(GateOrthogonalization, "on_task_start", watch_start),
        patch.object(ContinualLM, "training_step", watch_step),
    ):
        result = launch(
            *configs("superni_gainlora_inflora"), f"--config={ROOT / 'experiments/presets/official_v1.yaml'}", *OPTIONS,
            *options, f"--model.backbone.name={t5}", f"--sequence.run_dir={run}",
        )  # fmt: skip
    assert result.code == 0, result.err
    return seen


class Published:
    """The published algorithm. Branches and gates in lists, oldest first."""

    def __init__(self, t5: Path) -> None:
        self.llm = T5ForConditionalGeneration.from_pretrained(t5, dtype=torch.float64).eval()
        keep_float64(self.llm)
        for p in self.llm.parameters():
            p.requires_grad_(False)
        self.projections = {n: m for n, m in self.llm.named_modules() if n.endswith((".q", ".v"))}
        self.modules = sorted({n.rpartition(".")[0] for n in self.projections})
        self.A: list[dict[str, Tensor]] = []
        self.B: list[dict[str, Tensor]] = []
        self.gates: list[list[Tensor]] = []
        self.M: dict[str, Tensor] = {}
        self.MG: list[Tensor | None] = [None, None, None]
        self.a: list[Tensor] = []
        self.states: dict[str, Tensor] = {}
        self.apart = math.inf  # from our run
        for name, module in self.projections.items():
            module.register_forward_hook(lambda m, u, y, name=name: y + self.branches(name, u[0]))

    def branches(self, name: str, u: Tensor) -> Tensor:
        if name.endswith(".q"):
            self.states[name.rpartition(".")[0]] = u.detach()
        out = torch.zeros(())
        for i in range(len(self.A)):
            with torch.set_grad_enabled(i == len(self.A) - 1 and torch.is_grad_enabled()):  # old branches: no gradient
                term = (u @ self.A[i][name].t() @ self.B[i][name].t()) * (ALPHA / RANK) * self.a[i][:, None, None]
            out = out + term
        return out

    def pooled(self, batch: dict[str, Any]) -> Tensor:
        mask = batch["attention_mask"].double()
        return (self.llm.shared(batch["input_ids"]) * mask[..., None]).sum(1) / mask.shape[1]

    def features(self, gate: list[Tensor], p0: Tensor) -> list[Tensor]:
        p1 = silu(p0 @ gate[0].t())
        return [p0, p1, silu(p1 @ gate[1].t())]

    def forward(self, batch: dict[str, Any]) -> Tensor:
        self.a = []
        for gate in self.gates:
            p2 = self.features(gate, self.pooled(batch))[2]
            cosine = (p2 * gate[2]).sum(1) / p2.norm(dim=1) / gate[2].norm()
            self.a.append((2 * torch.sigmoid(4 * cosine) - 1).abs())
        keys = ("input_ids", "attention_mask", "labels")
        return self.llm(**{k: batch[k] for k in keys}, use_cache=False).logits

    @torch.no_grad()
    def covariances(self, batches: list[dict[str, Any]]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        count: dict[str, int] = {}
        for batch in batches:
            self.forward(batch)
            for name, u in self.states.items():
                rows = u.reshape(-1, u.shape[-1])
                sums[name] = sums.get(name, 0) + rows.t() @ rows
                count[name] = count.get(name, 0) + len(rows)
        return {name: total / count[name] for name, total in sums.items()}

    @torch.no_grad()
    def gate_covariances(self, batches: list[dict[str, Any]]) -> list[Tensor]:
        C: list[Any] = [0.0, 0.0, 0.0]
        n = 0
        for batch in batches:
            p, b = self.features(self.gates[-1], self.pooled(batch)), len(batch["input_ids"])
            C[0] = (C[0] * n + p[0].t() @ p[0]) / (n + b)
            C[2] = (C[2] * n + p[2].t() @ p[2]) / (n + b)
            n += b
            C[1] = (C[1] * n + p[1].t() @ p[1]) / (n + b)  # n has been counted on already
        return C

    def task(self, t: int, seen: Seen) -> None:
        eye = torch.eye(self.llm.config.d_model, dtype=torch.float64)
        first = [w.clone() for w in seen.starts[t]]
        copied = [w.detach().clone() for w in self.gates[-1][:2]] if t else first[:2]
        self.gates.append([*copied, first[2]])
        self.A.append({n: torch.zeros(RANK, m.in_features).double() for n, m in self.projections.items()})
        self.B.append({n: torch.zeros(m.out_features, RANK).double() for n, m in self.projections.items()})
        for name, C in self.covariances(seen.boundary(t, "subspaces")).items():
            if t:
                C = (eye - self.M[name] @ self.M[name].t()) @ C
            for leaf in "qv":
                self.A[t][f"{name}.{leaf}"] = torch.linalg.svd(C)[0][:, :RANK].t() / math.sqrt(3)
        C = self.gate_covariances(seen.boundary(t, "gates"))[2]
        if t:
            C = (eye - self.MG[2] @ self.MG[2].t()) @ C
        self.gates[t][2] = torch.linalg.svd(C)[0][:, :1].t() * first[2].norm()
        self.train(t, seen.batches[t])
        share = SHARE + (1 - SHARE) * t / 15
        for name, C in self.covariances(seen.boundary(t, "subspaces")).items():
            self.M[name] = grow(self.M.get(name), C, share)
        for index, C in enumerate(self.gate_covariances(seen.boundary(t, "gates"))):
            self.MG[index] = grow(self.MG[index], C, share)

    def train(self, t: int, batches: list[dict[str, Any]]) -> None:
        parameters = [*self.B[t].values(), *self.gates[t]]
        m, v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        for p in parameters:
            p.requires_grad_(True)
        for k, batch in enumerate(batches, start=1):
            labels = batch["labels"]
            loss = nn.functional.cross_entropy(self.forward(batch).flatten(0, 1), labels.flatten(), ignore_index=-100)
            grads = torch.autograd.grad(loss, parameters)
            norm = torch.stack([g.norm() for g in grads]).norm()
            old = [w.detach().clone() for w in self.gates[t]]
            with torch.no_grad():
                for p, g, mean, square in zip(parameters, grads, m, v, strict=True):
                    g = g * min(1.0, float(1.0 / (norm + 1e-6)))
                    mean.mul_(0.9).add_(0.1 * g)
                    square.mul_(0.999).add_(0.001 * g * g)
                    p -= LR * math.sqrt(1 - 0.999**k) / (1 - 0.9**k) * mean / (square.sqrt() + 1e-8)
                for w, before, M in zip(self.gates[t], old, self.MG, strict=True):
                    if t:
                        wanted = w.norm(dim=1, keepdim=True)
                        w -= (w - before) @ M @ M.t()
                        w *= wanted / w.norm(dim=1, keepdim=True)
        for p in parameters:
            p.requires_grad_(False)


def grow(M: Tensor | None, C: Tensor, share: float) -> Tensor:
    total = float(torch.linalg.svdvals(C).square().sum())
    if M is None:
        U, S, _ = torch.linalg.svd(C)
        return U[:, : max(1, int((S.square().cumsum(0) / total < share).sum()))]
    U, S, _ = torch.linalg.svd(C - M @ M.t() @ C)
    held, count = 1 - float(S.square().sum()) / total, 0
    while held < share:
        held += float(S[count].square()) / total
        count += 1
    return torch.cat([M, U[:, :count]], 1)


def apart(reference: Published, run: Path) -> Iterator[float]:
    """Largest difference of what signs of singular vectors leave alone: products, gates' layers, keys up to a sign."""
    kept = adapters(run)
    for t, task in enumerate(TASKS):
        state = kept[task]
        for name in reference.projections:
            product = state[f"{name}.lora_B"] @ state[f"{name}.lora_A"]
            yield float((product - reference.B[t][name] @ reference.A[t][name]).abs().max())
        for index, w in enumerate(reference.gates[t]):
            found = state[f"gate.{index}"]
            yield min(float((found - w).abs().max()), float((found + w).abs().max()) if index == 2 else math.inf)


@pytest.fixture(scope="module")
def reference(t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """After the three tasks, with which ours agrees."""
    run = tmp_path_factory.mktemp("official") / "run"
    seen, reference = ours(t5, run), Published(t5)
    for t in range(len(TASKS)):
        reference.task(t, seen)
        moved = max(float(B.abs().max()) for B in reference.B[t].values())
        assert moved > 1e-3, "something was learnt"
    reference.apart = max(apart(reference, run))
    return reference


def test_three_tasks_of_the_published_algorithm(reference: Published) -> None:
    assert reference.apart < 1e-10


@pytest.mark.parametrize(
    "option",
    [
        pytest.param("--model.adapter.detach_old=false", marks=pytest.mark.long),
        "--boundary.gates.row_norms=false",
    ],
)
def test_our_own_choices_end_elsewhere(option: str, t5: Path, reference: Published, tmp_path: Path) -> None:
    """Negative control."""
    ours(t5, tmp_path / "run", option)
    assert max(apart(reference, tmp_path / "run")) > 1e-6
