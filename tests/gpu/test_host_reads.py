"""How often the CPU waits for the device: a fixed number per step, whatever the number of layers or batches."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cl_lightning.__main__ import main
from cl_lightning.evaluation.generate import continuations
from cl_lightning.gradients.collector import GradientCollector
from cl_lightning.gradients.memory_plan import plan
from cl_lightning.model.module import ContinualLM
from tests.conftest import ROOT, batch_of, random_examples
from tests.gpu.host_reads import HostReads, reads_of
from tests.gpu.reference import moved
from tests.runs import BASE

pytestmark = pytest.mark.gpu

#: Most reads of a forward and backward pass, by the function that makes them. Labelled positions are picked by masks;
#: transformers looks twice whether it can leave out the attention mask.
FORWARD = {
    "module:answer_logits index": 2,
    "module:answer_logits nonzero": 1,
    "module:answer_logits local_scalar_dense": 2,
    "backward index_put": 1,
}
#: Of an optimiser step, beside those of one pass: is the gradient finite, and the step's loss and tokens.
STEP = FORWARD | {
    "module:configure_gradient_clipping local_scalar_dense": 1,
    "trainer_hooks:on_train_batch_end local_scalar_dense": 2,
}
#: Of one more generated token of a batch: have all answers ended, and transformers' look at the mask.
TOKEN = 2


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> list[Counter[str]]:
    """Filled with the reads of each optimiser step that is trained."""
    found: list[Counter[str]] = []
    modes: list[HostReads] = []
    end, start = ContinualLM.on_train_end, ContinualLM.on_train_start

    def on_train_start(module: ContinualLM) -> None:
        start(module)
        modes.append(HostReads(device))
        modes[-1].__enter__()

    def on_train_batch_start(module: ContinualLM, batch: object, index: int) -> None:
        if index:  # from one batch to the next, what the Trainer does between them included
            found.append(modes[-1].sites)
        modes[-1].sites = Counter()

    def on_train_end(module: ContinualLM) -> None:
        modes.pop().__exit__(None, None, None)
        end(module)

    for hook in (on_train_start, on_train_batch_start, on_train_end):
        monkeypatch.setattr(ContinualLM, hook.__name__, hook)
    return found


def train(run: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """Train a task of four steps in this process."""
    monkeypatch.chdir(ROOT)
    # Prefixes are shared on CPUs alone.
    monkeypatch.setattr(ContinualLM, "_shared_columns", lambda module, batch: 0)
    quick = ["--data.order=[FOMC]", "--data.test_samples=1", "--boundary.memory=null", "--boundary.init=null"]
    monkeypatch.setattr(sys, "argv", ["cl-lightning", *BASE, f"--sequence.run_dir={run}", *quick, *options])
    main()


def test_of_an_optimiser_step(
    steps: list[Counter[str]], device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", monkeypatch)
    assert len(steps) == 4
    assert all(step == steps[0] for step in steps)
    more = {site: count for site, count in steps[0].items() if count > STEP.get(site, 0)}
    assert not more, "a step waits for the device more often than it did"


def test_control_a_step_that_reads_its_loss_is_seen(
    steps: list[Counter[str]], device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ContinualLM.training_step

    def training_step(module: ContinualLM, batch: dict, index: int) -> torch.Tensor:
        loss = plain(module, batch, index)
        assert float(loss.detach()) > 0
        return loss

    monkeypatch.setattr(ContinualLM, "training_step", training_step)
    train(tmp_path / "run", monkeypatch)
    assert steps[0]["test_host_reads:training_step local_scalar_dense"] == 1


@pytest.mark.parametrize("mode", ["exact", "single_pass"])
def test_of_a_boundary(on: Callable[..., ContinualLM], device: torch.device, mode: str) -> None:
    batch, more = moved(batch_of(random_examples(4)), device), []
    for layers in (2, 3):
        module = on("float32", config={"num_hidden_layers": layers})
        module.adapter.begin_task(0, torch.Generator().manual_seed(0))
        shapes = {name: layer.shape for name, layer in module.adapter.layers.items()}
        collector = GradientCollector(module.adapter.layers, plan(shapes, 2, 2, 2, mode=mode), 0, torch.float32)

        def collect(
            batches: int, module: ContinualLM = module, collector: GradientCollector = collector
        ) -> Counter[str]:
            source = module.gradient_pass([batch] * batches)
            return reads_of(device, lambda: collector.collect(source, [collector.collect(source)]))

        found = collect(2) - collect(1)
        del found["accumulate:gather_batches to_copy"]  # after the pass
        more.append(found)
    assert more[0] == more[1], "waits in a batch grow with the number of layers"
    forwards = more[0]["module:answer_logits nonzero"]
    assert forwards and sum(more[0].values()) <= forwards * sum(FORWARD.values())


def test_of_scoring(on: Callable[..., ContinualLM], device: torch.device) -> None:
    prompts, per_token = [e.prompt_ids for e in random_examples(5)], []
    for layers in (2, 3):
        module = on("float32", config={"num_hidden_layers": layers})
        module.adapter.begin_task(0, torch.Generator().manual_seed(0))

        def score(tokens: int, module: ContinualLM = module) -> Counter[str]:
            return reads_of(device, lambda: continuations(module.llm, module.tokenizer, prompts, tokens, batch_size=8))

        per_token.append(score(5) - score(4))
    assert per_token[0] == per_token[1], "waits of a token grow with the number of layers"
    assert sum(per_token[0].values()) <= TOKEN
