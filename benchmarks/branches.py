"""Cost of many gated branches: a whole training step with 1, 5, 15 and 30 of them.

(a) Llama of 12 layers, width 1024, MLP 4096, and SmolLM2-135M; q and v adapted, rank 4, 4 x 512 tokens: forward, back,
clipping, AdamW and the projection of the gate's update, in seconds and in units of one branch. (b) the adapted linears
of one attention alone, forward and backward of the same tensors, against a loop over branches in plain autograd.
(c) seconds of projecting a gate's update, beside a step's; (d) peak memory of a step, a fresh process for each count.
"""

import argparse
import resource
import subprocess
import sys
from typing import Any

import torch
from _common import BACKBONE, Stopwatch, device, finish, interleaved, options, paired_ratio, start, summary
from torch import Tensor, nn

from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.gates import constrain
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM

COUNTS = (1, 5, 15, 30)
RANK, BATCH, LENGTH = 4, 4, 512
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 16,
        "num_key_value_heads": 16, "initializer_range": 0.02}  # fmt: skip
MODELS = {"llama": ("random-llama", WIDE), "smollm2": (BACKBONE, {})}


def model(kind: str, dtype: str, count: int) -> ContinualLM:
    """Make a model with `count` non-zero branches, the last in training."""
    name, config = MODELS[kind]
    module = gated(Backbone(name, dtype=dtype, config=config))
    grow(module, 0, count)
    return module


def gated(backbone: Backbone) -> ContinualLM:
    """Make a model with gated branches on q and v, of which it has none yet."""
    adapter = GainLoRA(IncLoRA(rank=RANK, alpha=32.0, targets=["q_proj", "v_proj"]), width=50)
    module = ContinualLM(backbone, adapter)
    module.load(module.backbone.load_tokenizer())
    return module.to(device())


def grow(module: ContinualLM, first: int, count: int) -> None:
    """Add non-zero branches to the `first` that there are, up to `count`; the last is in training."""
    for task in range(first, count):
        if task:
            module.adapter.end_task(task - 1)
        module.adapter.begin_task(task, torch.Generator().manual_seed(task))
        for layer in module.adapter.layers.values():
            layer.lora_B.data.normal_(std=1e-3)


def batch_for(module: ContinualLM, length: int) -> dict[str, Any]:
    ids = torch.randint(3, module.llm.config.vocab_size, (BATCH, length), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, : 3 * length // 4] = -100
    masks = {"attention_mask": torch.ones_like(ids), "own_mask": (labels < 0).long()}
    return {k: v.to(module.llm.device) for k, v in {"input_ids": ids, "labels": labels, **masks}.items()}


class Side:
    """Model and optimiser for one count of branches; a call times a step."""

    def __init__(self, module: ContinualLM, length: int, clock: str) -> None:
        self.module, self.watch = module, Stopwatch(clock)
        self.batch = batch_for(module, length)
        groups = self.module.adapter.param_groups()
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
        self.new = self.module.adapter.gates.new
        self.starts = [w.detach().clone() for w in self.new]
        self.bases = [
            torch.linalg.qr(torch.randn(w.shape[1], min(w.shape[1] // 2, 200), device=w.device)).Q for w in self.new
        ]
        self.module.llm.train()

    def __call__(self) -> float:
        self.watch.start()
        self.optimizer.zero_grad()
        self.module.sample_nll(self.batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.project()
        self.watch.stop()
        return self.watch.seconds

    @torch.no_grad()
    def project(self) -> None:
        for w, s, M in zip(self.new, self.starts, self.bases, strict=True):
            w.copy_(constrain(w, s, M))


def side_of(kind: str, arguments: argparse.Namespace, count: int) -> Side:
    return Side(model(kind, arguments.dtype, count), 64 if arguments.quick else LENGTH, arguments.clock)


def steps(kind: str, arguments: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """Measure (a) and (c) for one model."""
    sides = {str(count): side_of(kind, arguments, count) for count in COUNTS}
    interleaved(sides, 1)  # first calls prepare kernels
    seconds = interleaved(sides, rounds)
    side = sides[str(COUNTS[-1])]
    side.watch.start()
    for _ in range(20):
        side.project()
    side.watch.stop()
    return {
        "ratio": {count: paired_ratio(s, seconds["1"]) for count, s in seconds.items()},
        "seconds": {count: summary(s) for count, s in seconds.items()},
        "projection_share": side.watch.seconds / 20 / min(seconds["1"]),
    }


def looped(layer: AdaptedLinear, x: Tensor, gates: Tensor) -> Tensor:
    """Compute the branches in a plain loop."""
    y = nn.functional.linear(x, layer.weight)
    for i in range(len(layer.columns)):
        A, B = layer.stack_A[i * RANK : (i + 1) * RANK], layer.stack_B[:, i * RANK : (i + 1) * RANK]
        y = y + gates[:, i, None, None].to(x.dtype) * ((x @ A.to(x.dtype).t()) @ B.to(x.dtype).t())
    new = (x @ layer.lora_A.to(x.dtype).t()) @ (layer.scaling * layer.lora_B).to(x.dtype).t()
    return y + gates[:, -1, None, None].to(x.dtype) * new


def linears(arguments: argparse.Namespace, count: int, rounds: int) -> dict[str, Any]:
    """Measure (b) with `count` branches."""
    module = model("llama", arguments.dtype, count)
    layers = [layer for name, layer in module.adapter.layers.items() if ".0." in name]
    rng, length = torch.Generator().manual_seed(0), 64 if arguments.quick else LENGTH
    x = torch.randn(BATCH, length, WIDE["hidden_size"], generator=rng).to(device(), module.llm.dtype).requires_grad_()
    gates = torch.rand(BATCH, count, generator=rng).to(device()).requires_grad_()
    watch = Stopwatch(arguments.clock)

    def run(forward: Any) -> float:
        x.grad = gates.grad = None
        watch.start()
        sum(forward(layer).float().square().mean() for layer in layers).backward()
        watch.stop()
        return watch.seconds

    def stacked(layer: AdaptedLinear) -> Tensor:
        layer.gates = gates
        return layer(x)

    with torch.no_grad():
        difference = max(float((stacked(la).float() - looped(la, x, gates).float()).abs().max()) for la in layers)
    sides = {"stacked": lambda: run(stacked), "loop": lambda: run(lambda layer: looped(layer, x, gates))}
    interleaved(sides, 1)
    seconds = interleaved(sides, 5 * rounds)
    return {"ratio": paired_ratio(seconds["loop"], seconds["stacked"]), "largest_difference": difference,
            "seconds": {name: summary(s) for name, s in seconds.items()}}  # fmt: skip


def peak(count: int, arguments: argparse.Namespace) -> float:
    """Measure (d): the peak in MiB of a process that does two steps; of the accelerator if there is one."""
    command = [sys.executable, __file__, "--peak-of", str(count), "--dtype", arguments.dtype]
    done = subprocess.run(
        [*command, *(["--quick"] if arguments.quick else [])], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def show_peak(arguments: argparse.Namespace) -> int:
    side = side_of("llama", arguments, arguments.peak_of)
    side(), side()
    if device().type == "cpu":
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        print(torch.accelerator.max_memory_allocated() / 2**20)
    return 0


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--peak-of", type=int, metavar="T", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    start(arguments)
    if arguments.peak_of:
        return show_peak(arguments)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    found = {kind: steps(kind, arguments, rounds) for kind in MODELS}
    print("(a) a training step in units of one branch's")
    for kind, of_kind in found.items():
        cells = (f"T={t} {r:.3f} ({of_kind['seconds'][t]['min_s']:.2f} s)" for t, r in of_kind["ratio"].items())
        print(f"  {kind:<8}" + "  ".join(cells) + f"  projection {100 * of_kind['projection_share']:.2f} % of a step")
    alone = {count: linears(arguments, count, rounds) for count in COUNTS[1:]}
    print("(b) adapted linears alone, a loop over branches against ours")
    for count, row in alone.items():
        print(f"  T={count:<3} {row['ratio']:.2f}  outputs differ by {row['largest_difference']:.1e} at most")
    peaks = {count: peak(count, arguments) for count in (1, 15)}
    print("(d) peak memory of a step: " + "  ".join(f"T={t} {mib:.0f} MiB" for t, mib in peaks.items()))
    ratios = {
        "t15_over_t1": max(of_kind["ratio"]["15"] for of_kind in found.values()),
        "t30_over_t1": max(of_kind["ratio"]["30"] for of_kind in found.values()),
        "loop_over_stacked_t15": alone[15]["ratio"],
        "peak_memory_t15_over_t1": peaks[15] / peaks[1],
    }
    finish(arguments, "branches", ratios, {"rank": RANK, "batch": [BATCH, LENGTH], "steps": found, "linears": alone,
                                           "peak_mib": peaks}, ratios.keys() - {"loop_over_stacked_t15"})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
