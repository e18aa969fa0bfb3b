"""Collected gradients on a whole model: sketched against exact, with memories, over ranks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.gradients.accumulate import Accumulator
from cl_lightning.gradients.collector import Collected, GradientCollector
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.gradients.memory_plan import plan
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of, random_examples, relative
from tests.launch import on_two_ranks

RANK, OVERSAMPLING = 4, 20
COLUMNS = 2 * RANK + OVERSAMPLING
Batch = dict[str, Any]


def batches(seed: int, sizes: tuple[int, ...] = (3, 1, 2)) -> list[Batch]:
    """Ragged batches at the weight of their common token mean."""
    examples = random_examples(sum(sizes), seed)
    tokens = sum(len(e.answer_ids) for e in examples)
    out, at = [], 0
    for size in sizes:
        weight = torch.full((size,), 1 / tokens, dtype=torch.float64)
        out.append({**batch_of(examples[at : at + size]), "sample_weight": weight})
        at += size
    return out


def load() -> ContinualLM:
    module = ContinualLM(Backbone("random-llama", dtype="float64"), SeqLoRA(rank=RANK, alpha=8))
    module.load(module.backbone.load_tokenizer())
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    return module


def collector(module: ContinualLM, mode: str, budget: int | None = None, oversampling: int = 10) -> GradientCollector:
    shapes = {name: layer.shape for name, layer in module.adapter.layers.items()}
    chosen = plan(shapes, RANK, 2, oversampling, budget, itemsize=8, mode=mode)
    return GradientCollector(module.adapter.layers, chosen, 0, torch.float64)


@pytest.fixture(scope="module")
def module() -> ContinualLM:
    return load()


@pytest.fixture(scope="module")
def exact(module: ContinualLM) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of memory (seed 1) and of the new task (seed 2)."""
    memory, new = (module.gradients(batches(seed)) for seed in (1, 2))
    return memory, new


def test_exact_inner_products_by_batch_add_up_to_the_inner_product(
    module: ContinualLM, exact: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    maker = collector(module, "exact")
    memory = maker.collect(module.gradient_pass(batches(1)))
    assert memory.inner_by_batch == {}
    new = maker.collect(module.gradient_pass(batches(2)), [memory], by_batch=True)
    for name, g in exact[1].items():
        assert relative(new.gradients[name], g) < 1e-12
        assert new.inner_by_batch[name].shape == (3, 1)
        assert float(new.inner[name]) == pytest.approx(float((g * exact[0][name]).sum()), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("mode", ["four_pass", "single_pass"])
def test_sketches_hold_what_counts_and_know_inner_products(
    module: ContinualLM, exact: tuple[dict[str, Tensor], dict[str, Tensor]], mode: str
) -> None:
    maker = collector(module, mode, oversampling=OVERSAMPLING)
    memory = maker.collect(module.gradient_pass(batches(1)))
    new = maker.collect(module.gradient_pass(batches(2)), [memory])
    for name, g in exact[1].items():
        sketch, held = new.gradients[name], memory.gradients[name]
        assert isinstance(sketch, LowRank)
        # Tropp et al. 2017, theorem 4.3 (for Halko's two passes a third of it): the mean of the squared error over
        # draws, twice that for one draw.
        rank, tail = 2 * RANK, float(torch.linalg.svdvals(g)[2 * RANK :].square().sum())
        assert float((g - sketch.dense()).square().sum()) < 2 * 2 * (1 + rank / (COLUMNS - rank - 1)) * tail, name
        # With the sketch of the memory, or with the memory itself where that sketch is poor: exact in the new one.
        against = exact[0][name] if name in new.formed else held.dense()
        wanted, size = float((g * against).sum()), float(g.norm() * against.norm())
        assert abs(float(new.inner[name]) - wanted) < 1e-9 * size, name
        assert abs(wanted - float((g * exact[0][name]).sum())) < 0.1 * size, name


def test_memories_that_a_sketch_misses_are_formed_within_the_budget(
    module: ContinualLM, exact: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    plain = collector(module, "four_pass", oversampling=0).plan
    largest = max(8 * g.numel() for g in exact[0].values())
    maker = collector(module, "four_pass", budget=max(plain.held, plain.kept + 2 * largest), oversampling=0)
    memory = maker.collect(module.gradient_pass(batches(1)))
    poor = {name: LowRank(g.left, g.right, 0.5) for name, g in memory.gradients.items()}
    passes = []

    class Counted(list[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            passes.append(1)
            return super().__iter__()

    memory = Collected(poor, module.gradient_pass(Counted(batches(1))))
    new = maker.collect(module.gradient_pass(batches(2)), [memory])
    assert new.formed == list(poor)
    assert 1 < len(passes) < len(poor)  # not all at once, for which there is no room, nor one by one
    assert new.extra_passes == 2 * len(passes)
    for name, g in exact[1].items():
        assert float(new.norms[name]) == pytest.approx(float(exact[0][name].square().sum()), rel=1e-9)
        assert float(new.inner[name]) == pytest.approx(float((g * exact[0][name]).sum()), rel=1e-9, abs=1e-14)


#: Norm of the new task's gradient, and its inner product with memory's batch by batch: numbers of an earlier
#: implementation, before `GradientPass`. The memories' sketches hold too little of these, so both modes must give them.
PINNED = {
    "model.layers.0.self_attn.v_proj": (2.489745787578639, [0.058526441270129, -0.082693318757826, 0.075825149470297]),
    "model.layers.1.mlp.down_proj": (0.8868700860746801, [0.013088358979437, 0.006602381269188, 0.005016583501668]),
}


@pytest.mark.parametrize("mode", ["exact", "four_pass"])
def test_the_collected_gradients_have_their_pinned_values(module: ContinualLM, mode: str) -> None:
    maker = collector(module, mode)
    memory = maker.collect(module.gradient_pass(batches(1)))
    new = maker.collect(module.gradient_pass(batches(2)), [memory], by_batch=True)
    for name, (norm, inner) in PINNED.items():
        if mode == "exact":
            assert float(new.gradients[name].norm()) == pytest.approx(norm, rel=1e-9)
        assert new.inner_by_batch[name][:, 0].tolist() == pytest.approx(inner, rel=1e-9)


# --- two ranks --------------------------------------------------------------------------------------------


def _rank(rank: int, folder: str, mode: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{mode}", rank=rank, world_size=2)
    module = load()
    maker = collector(module, mode)
    memory = maker.collect(module.gradient_pass(batches(1)[rank::2]))
    new = maker.collect(module.gradient_pass(batches(2)[rank::2]), [memory], by_batch=True)
    if rank == 0:
        gradients = {n: g if isinstance(g, Tensor) else g.dense() for n, g in new.gradients.items()}
        torch.save({"gradients": gradients, "inner": new.inner}, f"{folder}/{mode}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("mode", ["exact", "four_pass", "single_pass"])
def test_two_ranks_with_ragged_batches_equal_one(module: ContinualLM, tmp_path: Path, mode: str) -> None:
    on_two_ranks(_rank, str(tmp_path), mode)
    two = torch.load(tmp_path / f"{mode}.pt", weights_only=True)
    maker = collector(module, mode)
    memory = maker.collect(module.gradient_pass(batches(1)))
    one = maker.collect(module.gradient_pass(batches(2)), [memory], by_batch=True)
    for name, g in one.gradients.items():
        dense = g if isinstance(g, Tensor) else g.dense()
        assert relative(two["gradients"][name], dense) < 1e-10, name
        assert torch.allclose(two["inner"][name], one.inner[name], rtol=1e-9, atol=1e-13), name


def test_the_mean_of_rank_means_is_another_gradient(module: ContinualLM) -> None:
    """Negative control of the token weights: each rank's own token mean, averaged."""
    means: dict[str, Tensor] = {}
    for rank in (0, 1):
        share = batches(2)[rank::2]
        tokens = sum(int((b["labels"] != -100).sum()) for b in share)
        own = [{**b, "sample_weight": torch.full_like(b["sample_weight"], 0.5 / tokens)} for b in share]
        for name, g in module.gradients(own).items():
            means[name] = means.get(name, 0) + g
    union = module.gradients(batches(2))
    assert max(relative(means[name], g) for name, g in union.items()) > 1e-3


# --- not finite -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["four_pass", "single_pass"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sketched_gradient_that_is_not_finite_is_named(module: ContinualLM, mode: str, bad: float) -> None:
    name = list(module.adapter.layers)[5]
    good = module.gradient_pass(batches(1))

    class Spoilt:
        def __init__(self, accumulator: Accumulator) -> None:
            self.accumulator = accumulator

        def add(self, dy: Tensor, x: Tensor) -> None:
            self.accumulator.add(dy.clone().index_fill_(0, torch.tensor([0]), bad), x)

    class SpoiltPass(GradientPass):
        def by_batch(self, accumulators: Mapping[str, Accumulator]) -> Iterator[None]:
            return good.by_batch({**accumulators, name: Spoilt(accumulators[name])})

    with pytest.raises(ValueError, match=rf"^{name}: the gradient is not finite$"):
        collector(module, mode).collect(SpoiltPass(*vars(good).values()))
    collector(module, mode).collect(good)
