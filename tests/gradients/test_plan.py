"""The memory ladder: its formula against the bytes really held, and where it changes from one rung to the next."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks._shapes import llama_shapes
from cl_lightning.gradients.accumulate import Accumulator
from cl_lightning.gradients.collector import Collected, GradientCollector
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.gradients.memory_plan import plan
from cl_lightning.gradients.sketch import Sketch
from cl_lightning.linalg.low_rank import LowRank

MODELS = {
    "square": {"a": (64, 64), "b": (64, 64)},
    "llama": llama_shapes(48, 128, 2, 16),
    "narrow": {"wide": (12, 200), "tall": (200, 12), "square": (80, 80)},
}
RANK = 4


class Layer(nn.Module):
    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape, self.weight = shape, torch.zeros(0)


def tensors_in(thing: Any) -> dict[int, int]:
    """Bytes of every distinct storage reachable from our own objects."""
    if isinstance(thing, Tensor):
        return {thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()}
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, list | tuple):
        parts = list(thing)
    elif isinstance(thing, LowRank | Sketch | Collected | GradientCollector) or hasattr(thing, "drawn"):
        parts = list(vars(thing).values())
    else:
        return {}
    return {k: v for part in parts for k, v in tensors_in(part).items()}


@pytest.mark.parametrize("mode", ["exact", "four_pass", "single_pass"])
@pytest.mark.parametrize("model", MODELS)
def test_the_formula_is_what_is_held_at_the_peak(model: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = MODELS[model]
    layers = {name: Layer(shape) for name, shape in shapes.items()}
    chosen = plan(shapes, RANK, 2, mode=mode)
    collector = GradientCollector(layers, chosen, 0, torch.float32)
    made: list[Any] = []
    for kind in ("Exact", "FourPass", "SinglePass"):
        original = getattr(__import__("cl_lightning.gradients.collector", fromlist=[kind]), kind)

        def spy(*args: Any, original: Any = original) -> Any:
            made.append(original(*args))
            return made[-1]

        monkeypatch.setattr(f"cl_lightning.gradients.collector.{kind}", spy)
    held = []

    class Random(GradientPass):
        def by_batch(self, accumulators: Mapping[str, Accumulator]) -> Iterator[None]:
            rng = torch.Generator().manual_seed(0)
            for name, (m, n) in shapes.items():
                accumulators[name].add(torch.randn(30, m, generator=rng), torch.randn(30, n, generator=rng))
            yield
            alive = [getattr(x, "total", x) for x in made]
            held.append(sum(tensors_in([alive, done, collector._tests]).values()))

    source = Random(layers, nn.Module(), [], lambda batch: None)

    done: list[Any] = []
    for _ in range(2):
        made.clear()
        done.append(collector.collect(source).gradients)
    assert max(held) == chosen.held


def test_the_ladder_goes_down_rung_by_rung() -> None:
    shapes = llama_shapes(256, 688, 2, 128)
    rungs, budget = [plan(shapes, RANK, 2)], 0
    with pytest.raises(ValueError, match="bytes are too few") as refused:
        while True:
            budget = rungs[-1].held - 1
            rungs.append(plan(shapes, RANK, 2, budget=budget))
            assert rungs[-1].held <= budget
    assert f"single_pass needs {rungs[-1].held}" in str(refused.value)
    modes = [rung.mode for rung in rungs]
    assert modes == sorted(modes, key=["exact", "four_pass", "single_pass"].index)
    assert [r.kept_columns for r in rungs if r.mode == "four_pass"] == list(range(36, 17, -1))
    assert modes.count("exact") == 1
    assert modes.count("single_pass") > 1


def test_what_is_held_never_exceeds_the_budget_and_grows_with_m_plus_n_times_k() -> None:
    shapes = llama_shapes(256, 688, 4, 256)
    for budget in range(400_000, 20_000_000, 300_000):
        try:
            assert plan(shapes, 8, 2, budget=budget).held <= budget
        except ValueError:
            assert budget < 3_395_712  # the single pass with the least oversampling
    narrow, wide = (plan(shapes, r, 1, oversampling=0, mode="four_pass").held for r in (8, 16))
    probes = plan(shapes, 0, 1, oversampling=0, mode="four_pass").held  # what does not grow with k
    assert (wide - probes) == 2 * (narrow - probes)


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    [((4096, 11008, 32, 4096), 25.90), ((4096, 14336, 32, 1024), 27.92), ((3072, 8192, 28, 1024), 11.27)],
)
def test_known_sizes(model: tuple[int, int, int, int], gigabytes: float) -> None:
    shapes = llama_shapes(*model)
    assert plan(shapes, 8, 1).held / 1e9 == pytest.approx(gigabytes, abs=0.01)
    assert plan(shapes, 8, 2, mode="four_pass").held < 0.05 * plan(shapes, 8, 2).held


def test_the_choice_is_described_in_one_line() -> None:
    shapes = llama_shapes(256, 688, 2, 128)
    assert plan(shapes, RANK, 2).line().startswith("gradients exact: ")
    sketched = plan(shapes, RANK, 2, budget=plan(shapes, RANK, 2, mode="four_pass").held).line()
    assert "18 columns, 4 passes, 36 kept" in sketched
    assert "\n" not in sketched
