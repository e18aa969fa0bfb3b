"""The boundary's options against their definitions: scope, strength, norm, reliability and gates, by the gradient."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.slice_init import SliceInit
from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.data.collate import training_batch
from cl_lightning.initializers.kaiming import Kaiming
from cl_lightning.initializers.loraga import LoRAGA
from cl_lightning.sequence.run import SequenceRun
from cl_lightning.surgery.pcgrad import PCGrad
from cl_lightning.surgery.reconcile import blocks_of, decided_together
from cl_lightning.surgery.reliability import reliable_conflicts
from tests.callbacks.test_memory_gradient import Gradients, boundary, far, mean, of, of_new, remembered, token_mean
from tests.conftest import relative
from tests.ragged_words import small_run, words

SAMPLES = 5


class Against(PCGrad):
    """PCGrad against the memory gradient turned round: random models' gradients agree, these then conflict."""

    def coefficients(self, gram: Tensor) -> Tensor:
        turned = gram.clone()
        turned[0, 1:] *= -1
        turned[1:, 0] *= -1
        out = super().coefficients(turned)
        out[1:] *= -1
        return out


def both(run: SequenceRun) -> tuple[Gradients, Gradients]:
    """The new gradient, and the memory's turned round."""
    memory = mean([token_mean(run, group) for group in remembered(run, 2)])
    return token_mean(run, of_new(run, 3, SAMPLES)), {name: -g for name, g in memory.items()}


def projected(new: Gradients, memory: Gradients, groups: Iterable[list[str]], strength: float = 1.0) -> Gradients:
    """g - strength min(0, <g, r> / ||r||^2) r, inner products and norms summed over each group."""
    out = {}
    for names in groups:
        inner = sum(float((new[n] * memory[n]).sum()) for n in names)
        factor = strength * min(0.0, inner / sum(float(memory[n].square().sum()) for n in names))
        out |= {n: new[n] - factor * memory[n] for n in names}
    return out


SCOPES: dict[str, Callable[[list[str]], list[list[str]]]] = {
    "matrix": lambda names: [[n] for n in names],
    "block": lambda names: [[n for n in names if f".layers.{k}." in n] for k in (0, 1)],
    "global": lambda names: [names],
}


@pytest.mark.parametrize("scope", SCOPES)
def test_conflicts_are_decided_in_the_scope_asked_for(tmp_path: Path, scope: Any) -> None:
    run, _, found = boundary(tmp_path, Against(), scope=scope)
    new, memory = both(run)
    wanted = {name: projected(new, memory, groups(list(new))) for name, groups in SCOPES.items()}
    assert far(found, wanted.pop(scope)) < 1e-9
    assert all(far(found, other) > 1e-3 for other in wanted.values()), "negative controls: the other scopes"


@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_strength_is_the_share_of_the_correction(tmp_path: Path, strength: float) -> None:
    run, _, found = boundary(tmp_path, Against(), strength=strength)
    new, memory = both(run)
    assert far(found, projected(new, memory, SCOPES["matrix"](list(new)), strength)) < 1e-9
    assert far(found, projected(new, memory, SCOPES["matrix"](list(new)))) > 1e-3, "negative control: all of it"


def test_the_norm_is_preserved_where_asked_and_not_else(tmp_path: Path) -> None:
    run, _, found = boundary(tmp_path / "kept", Against(), preserve_norm=True)
    _, _, plain = boundary(tmp_path / "plain", Against())
    new, _ = both(run)
    for name, g in new.items():
        assert float(found[name].norm()) == pytest.approx(float(g.norm()), rel=1e-9)
        assert relative(found[name], plain[name] * (g.norm() / plain[name].norm())) < 1e-9
        assert float(plain[name].norm()) < 0.999 * float(g.norm())


def test_the_reliability_test_keeps_surgery_off_where_gradients_agree(tmp_path: Path) -> None:
    run, init, found = boundary(tmp_path, Against(), reliability=0.0, memory_samples=6)  # 3 batches
    assert far(found, token_mean(run, of_new(run, 3, SAMPLES))) < 1e-9, (
        "the true inner products are above 0: nothing fires"
    )
    assert init.boundaries


def reliable(z: float, inner: dict[str, Tensor], scope: Any = "matrix") -> dict[str, bool]:
    return reliable_conflicts(inner, decided_together(inner, scope, blocks_of(inner)), z)


def test_conflicts_are_reliable_z_standard_errors_below_zero_for_any_memory() -> None:
    low = torch.tensor([-3.0, -1.0, -2.0, -2.0], dtype=torch.float64)  # T = -8, SE = sqrt(4/3 * 2) = 1.63: 4.9 of them
    high = low + 2.5
    two = torch.stack([high, low], 1)
    a, b = "model.layers.0.a", "model.layers.1.b"
    assert reliable(4.8, {a: low[:, None], b: high[:, None]}) == {a: True, b: False}
    assert reliable(5.0, {a: low[:, None], b: high[:, None]}) == {a: False, b: False}
    assert reliable(4.8, {a: two}) == {a: True}, "one memory in conflict will do"
    assert reliable(4.8, {a: low[:, None], b: high[:, None]}, "block") == {a: True, b: False}
    assert reliable(0.0, {a: low[:, None], b: high[:, None]}, "global") == {a: True, b: True}, "decided on the sum"
    assert reliable(4.8, {a: low[:, None], b: high[:, None]}, "global") == {a: False, b: False}


@pytest.mark.parametrize("weighting", ["none", "new", "both"])
@pytest.mark.parametrize("index", [0, 1])
def test_samples_weigh_as_much_as_the_new_gate_opens_for_them_in_the_gradients_asked_for(
    tmp_path: Path, weighting: Any, index: int
) -> None:
    gated = GainLoRA(IncLoRA(rank=2, targets=["q_proj", "o_proj"]), width=6)
    run, _, found = boundary(tmp_path, index, adapter=gated, gate_weighting=weighting)
    groups = remembered(run, 2) if index else [of_new(run, 3, SAMPLES)]

    def gradient(examples: Any, weighed: bool) -> Gradients:
        tokens = sum(len(e.answer_ids) for e in examples)
        opens = run.module.adapter.forward_kwargs(training_batch(examples, pad_id=0))["gates"][:, -1].detach()
        weights = opens / tokens if weighed else torch.full_like(opens, 1 / tokens)
        return of(run, examples, weights.tolist())

    weighed = weighting == "both" or (weighting == "new" and index == 0)
    wanted = {flag: mean([gradient(group, flag) for group in groups]) for flag in (True, False)}
    assert far(found, wanted[weighed]) < 1e-9
    assert far(found, wanted[not weighed]) > 1e-2, "negative control"


@pytest.mark.parametrize("initializer", [Kaiming(), LoRAGA(directions="random")], ids=["kaiming", "random directions"])
def test_every_matrix_of_every_task_starts_from_draws_of_its_own(tmp_path: Path, initializer: Any) -> None:
    starts: list[dict[str, Tensor]] = []
    drawn: list[int] = []
    original = type(initializer).factors

    class Watched(type(initializer)):  # type: ignore[misc]
        def factors(self, weight: Tensor, statistic: Any, rank: int, scaling: float, rng: torch.Generator) -> Any:
            drawn.append(rng.initial_seed())
            return original(self, weight, statistic, rank, scaling, rng)

    watched = Watched(**{name: value for name, value in vars(initializer).items() if not name.startswith("_")})
    for seed in (42, 42, 1):
        init = SliceInit(watched, None, samples=SAMPLES, batch_size=2)
        run = small_run(tmp_path / str(len(starts)), words(seed=seed), {"init": init}, adapter=IncLoRA(rank=2)).context
        for task in (0, 1):
            run.module.adapter.begin_task(task, torch.Generator().manual_seed(0))
            init.on_task_start(run, task)
            starts.append({n: layer.lora_A.detach().clone() for n, layer in run.module.adapter.layers.items()})
            run.module.adapter.end_task(task)
    layers = len(starts[0])
    again, other = drawn[2 * layers : 4 * layers], drawn[4 * layers :]
    assert drawn[: 2 * layers] == again and len(set(again)) == 2 * layers
    assert not set(other) & set(again)
    assert all(torch.equal(starts[k][name], starts[k + 2][name]) for k in (0, 1) for name in starts[0])
