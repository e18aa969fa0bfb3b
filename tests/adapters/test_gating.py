"""Gated branches in the model: against a loop over branches, in every kind of forward pass, and the published T5."""

import inspect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.inflora import InfLoRA
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.adapters.olora import OLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.collate import prompt_batch, training_batch
from cl_lightning.evaluation.generate import generate
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.precision import keep_float64
from tests.conftest import SHARED, batch_of, random_examples, save_tiny_t5

ORACLES = SHARED / "oracles"
M, N, R, B, L = 12, 20, 3, 4, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- one layer --------------------------------------------------------------------------------------------


def layer_with(old: int, displaced: bool, dropout: float = 0.0) -> AdaptedLinear:
    """`old` frozen branches and a new one, moved from its start."""
    layer = AdaptedLinear(nn.Linear(N, M).double().requires_grad_(False), dropout)
    for seed in range(old + 1):
        up = normal(M, R, seed=seed + 50)
        layer.start_branch(normal(R, N, seed=seed), up if displaced else torch.zeros_like(up), 0.5)
        layer.lora_A.data += 0.1 * normal(R, N, seed=seed + 90)
        layer.lora_B.data += 0.1 * normal(M, R, seed=seed + 95)
        if seed < old:
            layer.fold(into_weight=False)
    return layer


def looped(layer: AdaptedLinear, x: Tensor, gates: Tensor) -> Tensor:
    """A loop over branches in plain autograd."""
    y = layer.base(x)
    edges = [0, *torch.tensor(layer.columns).cumsum(0).tolist()]
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        y = y + gates[:, i, None, None] * ((x @ layer.stack_A[a:b].t()) @ layer.stack_B[:, a:b].t())
    new = layer.lora_B @ layer.lora_A - (layer.lora_B0 @ layer.lora_A0 if layer.lora_B0 is not None else 0)
    return y + gates[:, len(edges) - 1, None, None] * (0.5 * x @ new.t())


@pytest.mark.parametrize("old", [0, 1, 3])
@pytest.mark.parametrize("displaced", [False, True])
def test_a_gated_layer_equals_the_loop_forward_and_backward(old: int, displaced: bool) -> None:
    layer, x = layer_with(old, displaced), normal(B, L, N, seed=7).requires_grad_()
    gates = normal(B, old + 1, seed=8).abs().requires_grad_()
    wanted = [x, gates, layer.lora_A, layer.lora_B]
    weight = normal(B, L, M, seed=9)
    layer.gates = gates
    y = layer(x)
    ours = torch.autograd.grad((y * weight).sum(), wanted)
    reference = looped(layer, x, gates)
    theirs = torch.autograd.grad((reference * weight).sum(), wanted)
    assert torch.allclose(y, reference, atol=1e-12)
    for a, b, what in zip(ours, theirs, ("x", "gates", "A", "B"), strict=True):
        if what == "gates":  # older gates are frozen: theirs is not asked for
            a, b = a[:, -1], b[:, -1]
        assert torch.allclose(a, b, atol=1e-11), what
    merged = torch.stack([
        xi @ (layer.base.weight + sum(
            g * w for g, w in zip(gi, [
                layer.stack_B[:, a:b] @ layer.stack_A[a:b]
                for a, b in zip([0, *torch.tensor(layer.columns).cumsum(0)[:-1].tolist()],
                                torch.tensor(layer.columns).cumsum(0).tolist(), strict=True)
            ] + [layer.update()], strict=True)
        )).t() + layer.base.bias
        for xi, gi in zip(x, gates, strict=True)
    ]) if old else reference  # fmt: skip
    assert torch.allclose(y, merged, atol=1e-12), "the sample's own merged weight"


def test_gates_that_do_not_fit_are_refused_and_inactive_branches_need_none() -> None:
    layer = layer_with(2, displaced=True)
    layer.gates = torch.ones(B + 1, 3)
    with pytest.raises(ConfigError, match="gates of 5 samples do not fit a layer's input of shape"):
        layer(normal(B, L, N))
    layer.gates, layer.active = torch.ones(B, 3, dtype=torch.float64), False
    gated = layer(normal(B, L, N))
    layer.gates = None
    assert torch.allclose(gated, layer(normal(B, L, N)), atol=1e-13)


# --- whole models -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_t5(tmp_path_factory.mktemp("t5"), layers=2, dropout=0.0)


Make = Callable[..., ContinualLM]


@pytest.fixture(params=["llama", "t5"])
def make(request: pytest.FixtureRequest, t5_folder: Path) -> Make:
    """A model of three tasks' gated branches, two of them frozen, all far from zero."""

    def build(
        dtype: str = "float64", branches: AdapterStrategy | None = None, pooling: Any = "task", **options: Any
    ) -> ContinualLM:
        backbone = Backbone("random-llama" if request.param == "llama" else str(t5_folder), dtype=dtype, **options)
        adapter = GainLoRA(branches or IncLoRA(rank=2, alpha=8, targets="all-linear"), width=6, pooling=pooling)
        module = ContinualLM(backbone, adapter)
        module.load(backbone.load_tokenizer())
        for task in range(3):
            adapter.begin_task(task, torch.Generator().manual_seed(task))
            rng = torch.Generator().manual_seed(100 + task)
            for parameter in [p for group in adapter.param_groups() for p in group["params"]]:
                noise = torch.randn(parameter.shape, dtype=torch.float64, generator=rng)
                parameter.data += 0.1 * noise.to(parameter.dtype)
            if task < 2:
                adapter.end_task(task)
        return module

    return build


def batch_for(module: ContinualLM, count: int = 4, seed: int = 0) -> dict[str, Any]:
    examples = random_examples(count, seed)
    if not module.encoder_decoder:
        return batch_of(examples)
    weight = torch.full((count,), 1.0 / count)
    return {**training_batch(examples, 0, encoder_decoder=True), "sample_weight": weight}


def gradients(module: ContinualLM, batch: dict[str, Any]) -> dict[str, Tensor]:
    module.zero_grad()
    module.sample_nll(batch).sum().backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_all_coefficients_one_are_incremental_lora(make: Make) -> None:
    module = make()
    batch = batch_for(module)
    plain = module.adapter.forward_kwargs
    module.adapter.forward_kwargs = lambda batch: {}
    for layer in module.adapter.layers.values():
        layer.gated_name = ""
    alone = module.sample_nll(batch)
    ones = torch.ones(4, 3, dtype=torch.float64)
    module.adapter.forward_kwargs = lambda batch: {"gates": ones}
    assert torch.allclose(module.sample_nll(batch), alone, atol=1e-12)
    module.adapter.forward_kwargs = plain
    assert (module.sample_nll(batch) - alone).abs().max().item() > 1e-4, "negative control: the gates say something"


def test_checkpointing_changes_neither_loss_nor_gradients(make: Make) -> None:
    plain, checkpointed = make(), make(gradient_checkpointing=True)
    for module in (plain, checkpointed):
        module.llm.train()
    batch = batch_for(plain)
    assert torch.allclose(plain.sample_nll(batch), checkpointed.sample_nll(batch), atol=1e-12)
    one, two = gradients(plain, batch), gradients(checkpointed, batch)
    assert one.keys() == two.keys()
    assert sum("gates.new" in name for name in one) == 3, "the gate is trained too"
    assert all(torch.allclose(one[name], two[name], atol=1e-11) for name in one)


def test_gradients_agree_with_finite_differences(make: Make) -> None:
    """Through frozen branches above and below: the published code cuts these off."""
    module, eps = make(), 1e-5
    batch = batch_for(module)
    found = gradients(module, batch)
    names = list(found)
    for name in (names[0], names[1], *[n for n in names if "gates.new" in n]):
        parameter = dict(module.named_parameters())[name]
        index = int(found[name].abs().argmax())
        flat = parameter.data.view(-1)
        values = []
        for sign in (1, -1):
            flat[index] += sign * eps
            with torch.no_grad():
                values.append(float(module.sample_nll(batch).sum()))
            flat[index] -= sign * eps
        assert float(found[name].view(-1)[index]) == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-7), name


def test_coefficients_are_the_same_in_training_and_generation_whatever_the_padding(make: Make) -> None:
    module, examples = make(), random_examples(5, seed=3)
    both = training_batch(examples, 0, module.encoder_decoder)
    wanted = module.adapter.forward_kwargs(both)["gates"]
    prompts, own = [e.prompt_ids for e in examples], [e.own for e in examples]
    for left in (True, False):
        a = module.adapter.forward_kwargs(prompt_batch(prompts, 0, left, own))["gates"]
        assert torch.allclose(a, wanted, atol=1e-12)
    for i, example in enumerate(examples):
        alone = module.adapter.forward_kwargs(training_batch([example], 0, module.encoder_decoder))["gates"]
        assert torch.allclose(alone[0], wanted[i], atol=1e-12)


def test_the_prompt_is_pooled_whatever_is_labelled(make: Make) -> None:
    module, examples = make(pooling="prompt"), random_examples(4, seed=6)
    wanted = module.adapter.pooled(prompt_batch([e.prompt_ids for e in examples], 0))
    for loss_on in ("answer", "full"):
        assert torch.allclose(
            module.adapter.pooled(training_batch(examples, 0, module.encoder_decoder, loss_on)), wanted
        )


def test_generate_still_knows_the_models_own_arguments(make: Make) -> None:
    module = make()
    found = inspect.signature(module.llm.forward).parameters
    before = inspect.signature(type(module.llm).__mro__[1].forward).parameters
    assert set(found) == {*before, "gates"} - {"self"}


# Beams are compared with those of the other kind of cache, whichever is asked for first.
@pytest.mark.parametrize(("cache", "beams"), [(True, 1), (False, 1), (True, 2)])
def test_every_decode_step_sees_the_same_gates(make: Make, beams: int, cache: bool) -> None:
    """Against one forward pass over the finished text, whose likelihoods generation must have had step by step."""
    module = make()
    module.llm.eval()
    batch = prompt_batch([e.prompt_ids for e in random_examples(3, seed=5)], 0, not module.encoder_decoder, [None] * 3)
    gates = module.adapter.forward_kwargs(batch)["gates"].detach()
    batch.pop("own_mask")
    out = module.llm.generate(
        **batch, gates=gates, max_new_tokens=6, do_sample=False, num_beams=beams, use_cache=cache, pad_token_id=0,
        output_scores=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    if beams > 1:
        plain = module.llm.generate(
            **batch,
            gates=gates,
            max_new_tokens=6,
            do_sample=False,
            num_beams=beams,
            use_cache=not cache,
            pad_token_id=0,
        )
        assert torch.equal(out.sequences, plain)
        other = module.llm.generate(
            **batch, gates=0 * gates, max_new_tokens=6, do_sample=False, num_beams=beams, pad_token_id=0,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        assert (out.sequences_scores - other.sequences_scores).abs().min() > 1e-6, "negative control: without branches"
        return
    with torch.no_grad():
        if module.encoder_decoder:
            whole = module.llm(**batch, decoder_input_ids=out.sequences, gates=gates).logits[:, :-1]
        else:
            width = batch["input_ids"].shape[1]
            mask = torch.cat([batch["attention_mask"], torch.ones_like(out.sequences[:, width:])], 1)
            positions = (mask.cumsum(1) - 1).clamp_min(0)
            logits = module.llm(out.sequences, attention_mask=mask, position_ids=positions, gates=gates).logits
            whole = logits[:, width - 1 : -1]
    for step, logits in enumerate(out.logits):
        assert torch.allclose(logits.double(), whole[:, step].double(), atol=1e-6), step


def test_scoring_hands_each_prompt_its_own_gates(make: Make) -> None:
    module, examples = make("float32"), random_examples(6, seed=4)
    prompts, own = [e.prompt_ids for e in examples], [e.own for e in examples]
    extra = module.adapter.forward_kwargs
    together = generate(module.llm, module.tokenizer, prompts, 5, 4, own, extra)
    alone = [
        generate(module.llm, module.tokenizer, [p], 5, 1, [o], extra)[0] for p, o in zip(prompts, own, strict=True)
    ]
    assert together == alone
    opened = generate(
        module.llm, module.tokenizer, prompts, 5, 4, own, lambda b: {"gates": torch.ones_like(extra(b)["gates"])}
    )
    assert together != opened, "negative control: all gates open"


def test_nothing_stays_behind_after_a_pass_or_a_failure(make: Make) -> None:
    module = make()
    batch = batch_for(module)
    module.sample_nll(batch)
    assert all(layer.gates is None for layer in module.adapter.layers.values())
    with pytest.raises(ConfigError, match="do not fit"):
        module.llm(input_ids=batch["input_ids"], labels=batch["labels"], gates=torch.ones(9, 3, dtype=torch.float64))
    assert all(layer.gates is None for layer in module.adapter.layers.values())


@pytest.mark.parametrize(
    ("make", "branches"),
    [
        ("llama", OLoRA(rank=2, alpha=8)),
        ("t5", InfLoRA(rank=2, alpha=8)),
        pytest.param("llama", InfLoRA(rank=2, alpha=8), marks=pytest.mark.long),
        pytest.param("t5", OLoRA(rank=2, alpha=8), marks=pytest.mark.long),
    ],
    ids=["llama-olora", "t5-inflora", "llama-inflora", "t5-olora"],
    indirect=["make"],
)
def test_restored_over_any_branches(make: Make, branches: AdapterStrategy) -> None:
    module = make(branches=branches)
    batch = batch_for(module)
    adapter = module.adapter
    assert adapter.trainable_factors == branches.trainable_factors
    state = {k: t.clone() for k, t in adapter.task_state().items()}
    adapter.end_task(2)
    wanted = module.sample_nll(batch)
    again = make(branches=branches)
    again.adapter.gates.new, again.adapter.gates.old = nn.ParameterList(), nn.ParameterList()
    fresh = ContinualLM(again.backbone, GainLoRA(branches, width=6))
    fresh.load(again.tokenizer)
    states = []
    for task in range(2):
        tensors = {f"gate.{i}": w[task] for i, w in enumerate(adapter.gates.old)}
        for name, layer in adapter.layers.items():
            a, b = sum(layer.columns[:task]), sum(layer.columns[: task + 1])
            tensors |= {f"{name}.lora_A": layer.stack_A[a:b], f"{name}.lora_B": layer.stack_B[:, a:b] / adapter.scaling}
        states.append(tensors)
    fresh.adapter.restore([*states, state])
    assert torch.allclose(fresh.sample_nll(batch), wanted, atol=1e-10)


def test_branches_that_are_not_kept_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.branches: SeqLoRA does not keep each task's branch separate"):
        GainLoRA(SeqLoRA())
    with pytest.raises(ConfigError, match=r"branches\.offset: baked subtracts the start from W for all samples"):
        GainLoRA(IncLoRA(offset="baked"))
    with pytest.raises(ConfigError, match=r"model\.adapter\.width: 0 must be 1 or more"):
        GainLoRA(IncLoRA(), width=0)
    assert any("add boundary.gates" in reason for reason in GainLoRA(IncLoRA()).check({}))
    assert len(GainLoRA(InfLoRA()).check({})) == 2


@pytest.mark.skipif(not ORACLES.exists(), reason="outputs of the published code are not beside this checkout")
def test_the_published_t5_gives_the_published_logits_and_the_true_gradients() -> None:
    import numpy as np
    from safetensors.torch import load_file

    name = "flan_like_task3"
    arrays, facts = np.load(ORACLES / "gainlora_t5.npz"), json.loads((ORACLES / "gainlora_t5.json").read_text())
    weights = {k: t.double() for k, t in load_file(ORACLES / f"gainlora_t5_{name}.safetensors").items()}
    about = facts["models"][name]
    llm = T5ForConditionalGeneration(T5Config(**about["config"], dropout_rate=0.0)).double().eval()
    llm.lm_head = nn.Linear(32, 100, bias=False).double()  # T5Config ties it, whatever it is asked
    mapped = {theirs: weights[ours] for theirs, ours in facts["mapping"].items() if ours in weights}
    mapped |= {f"{part}.embed_tokens.weight": weights["embed"] for part in ("encoder", "decoder")}
    llm.load_state_dict({k: t for k, t in mapped.items() if k in llm.state_dict()})
    branches = IncLoRA(rank=about["lora_r"], alpha=about["lora_alpha"], targets=["q", "v"])
    adapter = GainLoRA(branches, width=about["mlp_hidden_dim"], pooling="padded")
    llm.requires_grad_(False)
    adapter.attach(llm, llm.get_output_embeddings())
    place = {"SelfAttention": "self", "EncDecAttention": "cross"}
    neutral = {layer: f"{p[0][:3]}.{p[2]}.{place[p[5]]}.{p[6]}" for layer in adapter.layers for p in [layer.split(".")]}
    states = []
    for task in (1, 2, 3):
        gate = [weights[f"gate.task{task}.{key}"] for key in ("W1", "W2")] + [weights[f"gate.task{task}.key"][None]]
        state = {f"gate.{index}": w for index, w in enumerate(gate)}
        for layer, ours in neutral.items():
            state |= {f"{layer}.lora_{f}": weights[f"{ours}.branch{task}.{f}"] for f in ("A", "B")}
        states.append(state)
    adapter.restore(states[:2])
    adapter.branches._load(states[2])
    adapter.gates.begin([states[2][f"gate.{index}"] for index in range(3)])

    def logits(ids: str, mask: str) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask}
        batch = {key: torch.from_numpy(arrays[stored]).long() for key, stored in inputs.items()}
        labels = torch.from_numpy(arrays["labels"]).long()
        return llm(**batch, labels=labels, **adapter.forward_kwargs(batch)).logits

    keep_float64(llm)
    found = logits("input_ids", "attention_mask")
    assert torch.allclose(found, torch.from_numpy(arrays[f"{name}|fp64|logits"]), rtol=0, atol=1e-10)
    padded = logits("input_ids_pad16", "attention_mask_pad16")
    assert torch.allclose(padded, torch.from_numpy(arrays[f"{name}|fp64|pad16|logits"]), rtol=0, atol=1e-10)
    loss = nn.functional.cross_entropy(found.flatten(0, 1), torch.from_numpy(arrays["labels"]).long().flatten())
    assert loss.item() == pytest.approx(float(arrays[f"{name}|fp64|loss"]), abs=1e-10)
    loss.backward()
    of_layer = {ours: adapter.layers[layer] for layer, ours in neutral.items()}
    gate = dict(zip(("W1", "W2", "key"), adapter.gates.new, strict=True))
    wrong = 0
    for place_, values in about["finite_difference_check"].items():
        where, index = place_.rstrip("]").split("[")
        parts = where.split(".")
        parameter = (
            gate[parts[-1]] if parts[0] == "gate" else getattr(of_layer[".".join(parts[:4])], f"lora_{parts[-1]}")
        )
        at = [int(i) for i in index.split(",")]
        value = parameter.grad[tuple(at)]
        assert float(value) == pytest.approx(values["true_finite_difference"], rel=1e-5, abs=1e-7), place_
        wrong += abs(values["official_autograd"] - float(value)) > 1e-3
    assert wrong, "the published code's gradients are others: they stop at frozen branches"
