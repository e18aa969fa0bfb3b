"""Cost of SLICE's boundary with exact gradients and with streamed sketches.

(a) bytes held between batches, by formula and by measurement (each row in a fresh process); (b) seconds in units of a
plain forward and backward pass of the same batches through the frozen model; (c) bytes for the shapes of larger
models, by the same formula; (d) the decompositions of a 7B block on one rank and on two.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _common import BACKBONE, Stopwatch, device, finish, interleaved, options, start
from _memory import BATCH, LENGTH, OVERSAMPLING, RANK, batches_of, boundary, model, plain_pass, plans, transient
from _shapes import llama_shapes

from cl_lightning.gradients.memory_plan import Plan
from cl_lightning.initializers.slice import SLICE
from cl_lightning.initializers.start import start_of
from cl_lightning.linalg.svd import top_singular
from cl_lightning.model.module import ContinualLM

#: Batches of the new task and of memory in the timed boundary.
BATCHES = 8 + 8
#: glibc keeps freed blocks below a threshold that it adapts; a fixed one returns freed memory to the system.
FREED_IS_FREE = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
LARGE = {
    "Llama-2-7B": llama_shapes(4096, 11008, 32, 4096),
    "Llama-3-8B": llama_shapes(4096, 14336, 32, 1024),
    "Llama-3-70B": llama_shapes(8192, 28672, 80, 1024),
}


def memory(module: ContinualLM, dtype: str) -> dict[str, Any]:
    """Measure (a) per mode: held and transient MiB, by formula and measured."""
    layers = module.adapter.layers
    shapes = {name: layer.shape for name, layer in layers.items()}
    owners = module.input_moments(batches_of(module, 1, length=8)).owners
    rows = {}
    for mode, chosen in plans(shapes).items():
        result = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("_memory.py")), mode, dtype, str(torch.get_num_threads())],
            capture_output=True, text=True, check=True, env=os.environ | FREED_IS_FREE,
        )  # fmt: skip
        row = json.loads(result.stdout.splitlines()[-1])
        k = chosen.columns
        product = max(m * n if mode == "exact" else max(m, n) * (k + 8) for m, n in shapes.values())
        item = module.llm.dtype.itemsize
        rows[mode] = {
            "held_formula": chosen.held / 2**20,
            "held_measured": row["held"] / 2**20,
            "transient_formula": transient(shapes, owners, BATCH * LENGTH, item, product) / 2**20,
            "transient_measured": row["transient"] / 2**20,
            "compiled": row["compiled"] / 2**20,
        }
        print(f"  {mode:<12}" + "  ".join(f"{k} {v:8.1f} MiB" for k, v in rows[mode].items()))
    return rows


def times(module: ContinualLM, rounds: int, clock: str) -> dict[str, float]:
    """Measure (b): seconds per batch, plain and for one pass of each mode."""
    watch = Stopwatch(clock)
    batch = batches_of(module, 1)
    shapes = {name: layer.shape for name, layer in module.adapter.layers.items()}

    def plain() -> float:
        watch.start()
        plain_pass(module, batch)
        watch.stop()
        return watch.seconds

    def one(chosen: Plan) -> float:
        passes = []

        class Timed(list[dict[str, Any]]):
            def __iter__(self) -> Iterator[dict[str, Any]]:
                watch.start()
                yield from super().__iter__()  # the pass comes back when it has added the last one
                watch.stop()
                passes.append(watch.seconds)

        boundary(module, chosen, module.gradient_pass(Timed(batch)))
        return sum(passes) / len(passes)

    sides = {"plain": plain} | {mode: (lambda p=p: one(p)) for mode, p in plans(shapes).items()}
    return {name: min(seconds) for name, seconds in interleaved(sides, rounds).items()}


def decomposition(module: ContinualLM, clock: str) -> dict[str, float]:
    """Time the decomposition of all matrices' gradients and the writing of the factors."""
    adapter, watch = module.adapter, Stopwatch(clock)
    gradients = module.gradients(batches_of(module, 1, length=32))
    watch.start()
    starts = {
        name: start_of(
            SLICE(), layer.dense_weight(), gradients[name], RANK, adapter.scaling, torch.Generator().manual_seed(0)
        )
        for name, layer in adapter.layers.items()
    }
    watch.stop()
    svd = watch.seconds
    watch.start()
    for name, made in starts.items():
        adapter.set_factors(name, *made.tensors)
    watch.stop()
    return {"svd": svd, "write": watch.seconds}


def bf16_products(module: ContinualLM) -> dict[str, float]:
    """Compare products dy^T x in bf16 with float32 ones of the same tensors, over all matrices of a short batch.

    Relative error at most; lowest overlap of the top-2r subspaces, and largest relative difference of A0 and B0.
    """
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @dataclass
    class Both:
        name: str

        def add(self, dy: torch.Tensor, x: torch.Tensor) -> None:
            low_dy, low_x = dy.bfloat16(), x.bfloat16()
            pairs[self.name] = ((low_dy.t() @ low_x).float(), low_dy.float().t() @ low_x.float())

    module.gradient_pass(batches_of(module, 1, length=32)).run({name: Both(name) for name in module.adapter.layers})
    errors, overlaps, differences = [], [], []
    for name, (low, exact) in pairs.items():
        layer = module.adapter.layers[name]
        errors.append(float((low - exact).norm() / exact.norm()))
        starts = [
            start_of(SLICE(), layer.dense_weight(), g, RANK, module.adapter.scaling, torch.Generator().manual_seed(0))
            for g in (low, exact)
        ]
        overlaps.append(starts[0].overlap_with(exact, RANK))
        differences += [float((a - b).norm() / b.norm()) for a, b in zip(*(s.tensors for s in starts), strict=True)]
    return {
        "product_error_max": max(errors),
        "subspace_overlap_min": min(overlaps),
        "factor_difference_median": statistics.median(differences),
        "factor_difference_max": max(differences),
    }


def _decompose(rank: int, world: int, shapes: list[tuple[int, int]], file: str, queue: Any, clock: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    rng = torch.Generator().manual_seed(0)
    matrices = [torch.randn(m, 64, generator=rng) @ torch.randn(64, n, generator=rng) for m, n in shapes]
    dist.barrier()
    watch = Stopwatch(clock)
    watch.start()
    rng, made = torch.Generator().manual_seed(0), {}
    for index, G in enumerate(matrices):
        if index % world == rank:
            U, _, V = top_singular(G, 2 * RANK, rng)
            made[index] = (U.contiguous(), V.contiguous())
    for index, G in enumerate(matrices):
        for factor in made.get(index) or tuple(torch.empty(size, 2 * RANK) for size in G.shape):
            dist.broadcast(factor, index % world)
    watch.stop()
    queue.put(watch.seconds)
    dist.destroy_process_group()


def distributed_svd(quick: bool) -> dict[str, float]:
    """Measure (d): seconds for a Llama-2-7B block (a quarter as wide with --quick) with one thread per rank."""
    shapes = list(llama_shapes(1024, 2752, 1, 1024).values() if quick else llama_shapes(4096, 11008, 1, 4096).values())
    context, out = multiprocessing.get_context("spawn"), {}
    for world in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            queue = context.Queue()
            processes = [
                context.Process(target=_decompose, args=(r, world, shapes, f"{folder}/store", queue, "wall"))
                for r in range(world)
            ]
            for process in processes:
                process.start()
            out[f"{world}_rank"] = max(queue.get() for _ in processes)
            for process in processes:
                process.join()
    return out


def timed(arguments: argparse.Namespace, dtype: str) -> tuple[dict[str, float], dict[str, float]]:
    """Measure (b) for a base in `dtype`: seconds, and ratios to a plain forward and backward pass."""
    module = model(dtype)
    module.to(device())
    seconds = times(module, arguments.rounds or (1 if arguments.quick else 3), arguments.clock)
    seconds |= decomposition(module, arguments.clock)
    print(f"  {dtype:<10}" + "  ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    exact = BATCHES * seconds["exact"] + seconds["svd"] + seconds["write"]
    return seconds, {
        "exact_time_per_pass": exact / (BATCHES * seconds["plain"]),
        "sketched_time_per_pass": seconds["four_pass"] / seconds["plain"],
        "single_pass_time_per_pass": seconds["single_pass"] / seconds["plain"],
    }


def main() -> int:
    arguments = options(__doc__).parse_args()
    start(arguments)
    module = model(arguments.dtype)
    print("(a) between batches, two gradient sets, and beyond a plain pass during one")
    held = memory(module, arguments.dtype)
    print(f"(b) seconds per batch of {BATCH} x {LENGTH} tokens, then of all decompositions and of writing the factors")
    seconds, ratios = {}, {}
    for dtype in sorted({arguments.dtype, "float32"}):
        seconds[dtype], found = timed(arguments, dtype)
        ratios |= {name if dtype == arguments.dtype else f"{name}_{dtype}": value for name, value in found.items()}
    products = bf16_products(module)
    print("  products in bf16 against float32: " + "  ".join(f"{name} {value:.1e}" for name, value in products.items()))
    print(f"(c) bytes for larger models, rank {RANK}, two gradient sets")
    large = {name: {mode: p.held / 2**30 for mode, p in plans(shapes).items()} for name, shapes in LARGE.items()}
    for name, row in large.items():
        print(f"  {name:<12}" + "  ".join(f"{mode} {gib:8.2f} GiB" for mode, gib in row.items()))
    print("(d) decompositions of a 7B block")
    svd = distributed_svd(arguments.quick)
    print("  " + "  ".join(f"{name} {value:.2f} s" for name, value in svd.items()))
    ratios |= {
        "sketched_memory_over_exact": held["four_pass"]["held_measured"] / held["exact"]["held_measured"],
        "sketched_memory_over_exact_formula": held["four_pass"]["held_formula"] / held["exact"]["held_formula"],
        "svd_one_rank_over_two": svd["1_rank"] / svd["2_rank"],
    }
    figures = {
        "backbone": BACKBONE, "rank": RANK, "oversampling": OVERSAMPLING, "batch": [BATCH, LENGTH],
        "batches_in_boundary": BATCHES, "memory_mib": held, "seconds": seconds, "bf16_products": products,
        "large_models_gib": large, "svd_7b_block_seconds": svd,
    }  # fmt: skip
    finish(arguments, "slice_init", ratios, figures, ratios.keys() - {"svd_one_rank_over_two"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
