"""Quality of streamed gradient sketches against exact gradients: directions kept, conflicts seen.

(a) Real gradients after learning one task: memory's (of that task) and a new task's, which has the same prompts with
other labels, or is another task. (b) Synthetic ones with singular values i^-a and a known cosine. Both are collected
and reconciled as at a task boundary. Per matrix, U and V being the top 2r directions of a sketch, G the exact gradient
(the new task's, or what PCGrad makes of it), sigma_i its singular values:

    energy    ||U^T G V||^2 / sum of sigma_i^2, i <= 2r
    overlap   mean squared cosine of the principal angles between U and G's own top 2r left directions
    error     ||G - U S V^T|| / ||G||, S the sketch's singular values, beside the least possible one
    cosine    of new and memory gradient as surgery sees it; its sign counts where the exact one exceeds 5e-3
    low rank  the same from <G, memory's sketch> over exact norms

Goals for four_pass on real gradients: energy of 0.999 or more in every matrix, cosine errors below 4e-3, no sign error.
They are measured, not asserted. --quick leaves the other task out; --rounds has no effect.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

import torch
from _common import BACKBONE, Stopwatch, device, finish, options, start, tasks
from _epochs import BATCH, RATE, our_epoch
from torch import Tensor, nn

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.gradients.accumulate import Accumulator
from cl_lightning.gradients.collector import Gradient, GradientCollector
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.gradients.memory_plan import plan
from cl_lightning.linalg.gram import gram_matrix
from cl_lightning.linalg.svd import subspace_overlap, top_singular
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.surgery.pcgrad import PCGrad
from cl_lightning.surgery.reconcile import reconcile

RANK, OVERSAMPLING = 16, 10
TOP = 2 * RANK
SKETCHES = ("four_pass", "single_pass")
OLD, OTHER = "FOMC", "NumGLUE-cm"
FLIP = {"A": "B", "B": "C", "C": "A"}
TRAINED = 96  # examples of the old task, BATCH of them a step
POWERS, COSINE = (1.5, 1.0, 0.5), -0.33
ENERGY, CLEAR = 0.999, 5e-3


class Held(NamedTuple):
    """How much of a gradient the top 2r directions of a sketch retain."""

    energy: float
    overlap: float
    error: float
    least_error: float


class Row(NamedTuple):
    """One matrix in one mode: `new` and `reconciled` are None if that gradient is zero."""

    new: Held | None
    reconciled: Held | None
    cosine: float
    exact: float
    low_rank: float
    captured: float  # share of memory in its sketch, as the sketch estimates it
    formed: bool  # whether memory's gradient was formed for the inner product


Rows = dict[str, dict[str, Row]]  # mode -> matrix -> row


def held_by(sketches: Sequence[Gradient], G: Tensor) -> list[Held | None]:
    """Compare each sketch with the exact gradient G (m, n)."""
    U0, sigma, _ = torch.linalg.svd(G, full_matrices=False)
    whole, best, tail = sigma.norm(), sigma[:TOP].norm(), sigma[TOP:].norm()
    if whole == 0:
        return [None] * len(sketches)
    out: list[Held | None] = []
    for sketch in sketches:
        U, S, V = top_singular(sketch, TOP, torch.Generator().manual_seed(0))
        energy, error = ((U.t() @ G @ V).norm() / best) ** 2, (G - U * S @ V.t()).norm() / whole
        out.append(Held(float(energy), subspace_overlap(U, U0[:, :TOP]), float(error), float(tail / whole)))
    return out


class Boundary:
    """A memory gradient, and new gradients compared with it, exactly and in each mode."""

    def __init__(self, layers: Mapping[str, AdaptedLinear], memory: GradientPass) -> None:
        shapes = {name: layer.shape for name, layer in layers.items()}
        plans = {mode: plan(shapes, RANK, 2, OVERSAMPLING, mode=mode) for mode in ("exact", *SKETCHES)}
        self.makers = {mode: GradientCollector(layers, chosen, 0, torch.float32) for mode, chosen in plans.items()}
        self.memory = {mode: maker.collect(memory) for mode, maker in self.makers.items()}

    def against(self, new: GradientPass) -> Rows:
        old = self.memory
        news = {mode: maker.collect(new, [old[mode]]) for mode, maker in self.makers.items()}
        seen = {
            mode: reconcile(g.gradients, [old[mode].gradients], PCGrad(), inner=g.inner or None, norms=g.norms)
            for mode, g in news.items()
        }
        rows: Rows = {mode: {} for mode in SKETCHES}
        for name, reconciled, exact in seen["exact"]:
            sketched = [next(seen[mode]) for mode in SKETCHES]
            G, scale = news["exact"].gradients[name], exact.norm_new * exact.norm_memory
            of_new = held_by([news[mode].gradients[name] for mode in SKETCHES], G)
            of_reconciled = held_by([g for _, g, _ in sketched], reconciled)
            for i, mode in enumerate(SKETCHES):
                memory, record = old[mode].gradients[name], sketched[i][2]
                low_rank = float(gram_matrix([G, memory])[0, 1]) / scale if scale else 0.0
                cosines = (record.cosine, exact.cosine, low_rank)
                rows[mode][name] = Row(
                    of_new[i], of_reconciled[i], *cosines, memory.captured, name in news[mode].formed
                )
        return rows


def after_the_old_task(arguments: argparse.Namespace) -> tuple[ContinualLM, TaskSequence]:
    """Return the model after the old task is folded and the next branch begun, and both tasks' data."""
    tokenizer = Backbone(BACKBONE).load_tokenizer()
    module = ContinualLM(Backbone(BACKBONE, dtype=arguments.dtype), SeqLoRA(RANK, 2 * RANK), lr=RATE)
    module.load(tokenizer)
    module.to(device())
    settings = {"train_samples": TRAINED, "validation_samples": 0, "test_samples": 1, "batch_size": BATCH}
    data = tasks(arguments, [OLD, OTHER], tokenizer, **settings)
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    our_epoch(module, data, 0, Stopwatch(arguments.clock))
    module.adapter.end_task(0)
    module.adapter.begin_task(1, torch.Generator().manual_seed(1))
    return module, data


def flipped(data: TaskSequence, examples: Sequence[Encoded]) -> list[Encoded]:
    """Replace each label by the next, keeping the prompts."""
    changed = [replace(e.example, answer=FLIP[e.example.answer]) for e in examples]
    return [data.encoder.encode(example, data.tasks[0].spec) for example in changed]


def real(arguments: argparse.Namespace) -> dict[str, Rows]:
    """Compute the rows of each pair of tasks; with --quick, of every fourth block."""
    module, data = after_the_old_task(arguments)
    step = 4 if arguments.quick else 1
    layers = {name: layer for name, layer in module.adapter.layers.items() if int(name.split(".")[2]) % step == 0}

    def over(examples: Sequence[Encoded]) -> GradientPass:
        """Make a pass with the weights of the common token mean."""
        weight = 1.0 / sum(len(e.answer_ids) for e in examples)
        batches = []
        for batch in data.boundary_loader(examples, BATCH, 0, 1):
            batch["sample_weight"] = torch.full((len(batch.pop("index")),), weight)
            batches.append({key: value.to(module.llm.device) for key, value in batch.items()})
        return module.gradient_pass(batches)

    old, other = (task.train[: 16 if arguments.quick else 48] for task in data.tasks)
    boundary = Boundary(layers, over(old))
    pairs = {"label flip": flipped(data, old)} | ({} if arguments.quick else {OTHER: other})
    return {pair: boundary.against(over(new)) for pair, new in pairs.items()}


def synthetic(size: int) -> Rows:
    """Sketch gradients (size, size) given as blocks of the identity (dy) and of their rows (x).

    new = U S V^T and old = U S (V Q)^T meet at sum sigma_i^2 Q_ii / sum sigma_i^2, and Q = c I + sqrt(1 - c^2) K is
    orthogonal with diagonal c if K is skew and K^2 = -I; U, V and K are drawn at random.
    """
    rng = torch.Generator().manual_seed(0)
    normals = (torch.randn(size, size, dtype=torch.float64, generator=rng) for _ in range(3))
    U, V, H = (torch.linalg.qr(normal).Q for normal in normals)
    one, two = H.chunk(2, dim=1)
    Q = COSINE * torch.eye(size, dtype=torch.float64) + (1 - COSINE**2) ** 0.5 * (one @ two.t() - two @ one.t())
    scaled = {f"i^-{a}": U * torch.arange(1, size + 1, dtype=torch.float64) ** -a for a in POWERS}

    def over(right: Tensor) -> GradientPass:
        gradients = {name: (US @ right.t()).float() for name, US in scaled.items()}

        class Blocks(GradientPass):
            def by_batch(self, accumulators: Mapping[str, Accumulator]) -> Iterator[None]:
                for rows in self.batches:
                    for name, accumulator in accumulators.items():
                        accumulator.add(torch.eye(size)[rows], gradients[name][rows])
                    yield

        return Blocks(layers, nn.ModuleDict(), torch.arange(size).tensor_split(4), lambda rows: None)

    layers = {name: AdaptedLinear(nn.Linear(size, size, bias=False)) for name in scaled}
    return Boundary(layers, over(V @ Q)).against(over(V))


def in_numbers(rows: Sequence[Row]) -> dict[str, float]:
    """Summarise all matrices of one mode."""
    out: dict[str, float] = {}
    for kind in ("new", "reconciled"):
        held = [h for row in rows if (h := getattr(row, kind)) is not None]
        energies = [h.energy for h in held]
        out |= {f"energy_min_{kind}": min(energies), f"energy_median_{kind}": median(energies)}
        out |= {f"energy_below_{ENERGY}_{kind}": sum(e < ENERGY for e in energies)}
        out |= {f"overlap_median_{kind}": median(h.overlap for h in held)}
    for key in ("cosine", "low_rank"):
        errors = [abs(getattr(row, key) - row.exact) for row in rows]
        out |= {f"{key}_error_max": max(errors), f"{key}_error_median": median(errors)}
    unformed = [abs(row.cosine - row.exact) for row in rows if not row.formed]
    out["cosine_error_max_where_not_formed"] = max(unformed, default=0.0)
    out["sign_errors"] = sum(abs(row.exact) > CLEAR and (row.cosine < 0) != (row.exact < 0) for row in rows)
    return out | {"memories_formed": sum(r.formed for r in rows), "captured_min": min(r.captured for r in rows)}


def show_real(pair: str, modes: Rows) -> dict[str, Any]:
    """Print and return one pair's numbers, a column per mode."""
    rows = modes[SKETCHES[0]].values()
    counts = {"matrices": len(rows), "in_conflict": sum(row.exact < 0 for row in rows)}
    counts |= {"zero": sum(row.new is None for row in rows), "cosine_median": median(row.exact for row in rows)}
    print("  " + "  ".join([pair, *(f"{key} {value:.3g}" for key, value in counts.items())]))
    summaries = {mode: in_numbers(list(by_name.values())) for mode, by_name in modes.items()}
    for key in summaries[SKETCHES[0]]:
        values = [summaries[mode][key] for mode in SKETCHES]
        print(f"    {key:<34}" + "".join(f"{v:12d}" if isinstance(v, int) else f"{v:12.5f}" for v in values))
    return counts | summaries


def show_synthetic(modes: Rows) -> dict[str, Any]:
    """Print and return a line per decay and mode."""
    lines: dict[str, Any] = {mode: {} for mode in modes}
    for decay, mode in ((decay, mode) for decay in modes[SKETCHES[0]] for mode in SKETCHES):
        row = modes[mode][decay]
        line = {"error": row.new.error, "least": row.new.least_error, "energy": row.new.energy}
        line |= {"energy_reconciled": row.reconciled.energy, "captured": row.captured, "formed": int(row.formed)}
        lines[mode][decay] = line | {"low_rank": row.low_rank, "cosine": row.cosine}
        shown = (f"{k} {v}" if isinstance(v, int) else f"{k} {v:.4f}" for k, v in lines[mode][decay].items())
        print(f"  {decay}  {mode:<12}" + "  ".join(shown))
    return lines


def main() -> int:
    parser = options(__doc__)
    parser.set_defaults(dtype="float32")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|transformers|torch")
    start(arguments)
    watch = Stopwatch(arguments.clock)
    watch.start()
    pairs = real(arguments)
    print(f"(a) gradients after {OLD}, rank {RANK}, {TOP + OVERSAMPLING} columns: " + ", ".join(SKETCHES))
    figures: dict[str, Any] = {"real": {pair: show_real(pair, modes) for pair, modes in pairs.items()}}
    print(f"(b) synthetic gradients, cosine {COSINE}")
    figures["synthetic"] = show_synthetic(synthetic(512 if arguments.quick else 1024))
    watch.stop()
    print(f"{watch.seconds:.0f} seconds")
    ratios: dict[str, float] = {}
    for mode in SKETCHES:
        pairs = [of_pair[mode] for of_pair in figures["real"].values()]
        ratios[f"{mode}_energy_min"] = min(t[f"energy_min_{kind}"] for t in pairs for kind in ("new", "reconciled"))
        ratios[f"{mode}_cosine_error_max"] = max(t["cosine_error_max"] for t in pairs)
        ratios[f"{mode}_sign_errors"] = sum(t["sign_errors"] for t in pairs)
    settings = {"backbone": BACKBONE, "rank": RANK, "oversampling": OVERSAMPLING, "seconds": watch.seconds}
    less = (name for name in ratios if not name.endswith("_energy_min"))
    finish(arguments, "sketches", ratios, settings | ratios | figures, less)
    return 0


if __name__ == "__main__":
    sys.exit(main())
