"""Measure one memory row of `slice_init.py` in a separate process: _memory.py MODE DTYPE THREADS prints JSON."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from _common import BACKBONE

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.memory import release_memory
from cl_lightning.data.sample.tasks import load
from cl_lightning.gradients.capture import capture_into
from cl_lightning.gradients.collector import GradientCollector
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.gradients.memory_plan import Plan, Shapes, plan
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM

BATCH, LENGTH = 8, 256
TASK = "FOMC"
RANK, OVERSAMPLING = 8, 10
BUDGET = 1 / 8  # of the memory of exact gradients


def plans(shapes: dict[str, tuple[int, int]], share: float = BUDGET) -> dict[str, Plan]:
    """Plan a boundary with two gradient sets, the new task's and memory's, sketches within a share of exact memory.

    What the budget leaves beside finished sketches is room for the memories that have to be formed.
    """
    exact = plan(shapes, RANK, 2, OVERSAMPLING)
    budget = int(share * exact.held)
    return {"exact": exact} | {
        mode: plan(shapes, RANK, 2, OVERSAMPLING, budget, mode=mode) for mode in ("four_pass", "single_pass")
    }


def model(dtype: str) -> ContinualLM:
    module = ContinualLM(Backbone(BACKBONE, dtype=dtype), SeqLoRA(RANK, 2))
    module.load(module.backbone.load_tokenizer())
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    return module


def batches_of(module: ContinualLM, count: int, length: int = LENGTH) -> list[dict[str, Any]]:
    """Make rows of `length` tokens without padding: concatenated examples of TASK, loss on the last answer."""
    examples = load(TASK).train
    tokens = module.tokenizer
    asked = [tokens(e.prompt)["input_ids"] for e in examples]
    answers = [[*tokens(e.answer)["input_ids"], tokens.eos_token_id] for e in examples]
    rows, labels = [], []
    for i in range(count * BATCH):
        row: list[int] = []
        for j in range(i, i + len(examples)):  # backwards, until it is full
            row = [*asked[-j % len(examples)], *answers[-j % len(examples)], *row]
            if len(row) >= length:
                break
        answer = answers[-i % len(examples)]
        rows.append(row[-length:])
        labels.append([-100] * (length - len(answer)) + answer)
    total = sum(label != -100 for row in labels for label in row)
    out = []
    for ids, wanted in zip(torch.tensor(rows).split(BATCH), torch.tensor(labels).split(BATCH), strict=True):
        weight = torch.full((BATCH,), 1.0 / total)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": wanted, "sample_weight": weight}
        out.append({key: tensor.to(module.llm.device) for key, tensor in batch.items()})
    return out


def plain_pass(module: ContinualLM, batches: list[dict[str, Any]]) -> None:
    """Run forward and backward through the frozen model without capturing."""
    with module.adapter.without_new_branch(), capture_into({}, {}, module.llm):
        for batch in batches:
            (module.sample_nll(batch, share_prefix=False) * batch["sample_weight"]).sum().backward()


def boundary(module: ContinualLM, chosen: Plan, source: GradientPass) -> None:
    """Collect memory's gradient, then the new task's, like the boundary does."""
    collector = GradientCollector(module.adapter.layers, chosen, 0, torch.float32)
    remembered = collector.collect(source)
    collector.collect(source, [remembered])


def _status(key: str) -> int:
    """Read a value of /proc/self/status in bytes; VmHWM is the peak since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measured(module: ContinualLM, chosen: Plan) -> dict[str, int]:
    """Measure the bytes held between batches at their peak, and the peak beyond a plain pass and those.

    Counted from what the process holds when all gradients are gone: the kernels that the libraries compiled on the way
    stay, and are no gradients.
    """
    batches = batches_of(module, 1)
    plain_pass(module, batches)
    release_memory()
    base = _status("VmRSS")
    _forget_peak()
    plain_pass(module, batches)
    plain = _status("VmHWM") - base
    held, beyond = [], []

    class Watched(list[dict[str, Any]]):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            release_memory()
            _forget_peak()
            for batch in super().__iter__():
                yield batch  # the pass comes back when it has added it
                peak = _status("VmHWM")
                release_memory()
                held.append(_status("VmRSS"))
                beyond.append(peak - held[-1] - plain)
                _forget_peak()

    boundary(module, chosen, module.gradient_pass(Watched(batches)))
    release_memory()
    return {"held": max(held) - _status("VmRSS"), "transient": max(beyond), "compiled": _status("VmRSS") - base}


def transient(shapes: Shapes, shared_inputs: Mapping[str, str], tokens: int, itemsize: int, accumulated: int) -> int:
    """Compute the bytes that capturing needs during one pass, beyond a plain pass and beyond `Plan.held`.

    Every layer's input, once where layers share one, and one product of the largest size in flight.

    Args:
        shared_inputs: layer -> the layer whose input it shares (itself, if it is the first).
        tokens: N of a batch.
        itemsize: bytes of an activation.
        accumulated: numbers of the largest product: mn when exact, (m + n) k at most when sketched.
    """
    inputs = {owner: shapes[owner][1] for owner in shared_inputs.values()}
    return (tokens * sum(inputs.values()) + accumulated) * itemsize


if __name__ == "__main__":
    mode, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    loaded = model(dtype)
    shapes = {name: layer.shape for name, layer in loaded.adapter.layers.items()}
    print(json.dumps(measured(loaded, plans(shapes)[mode])))
