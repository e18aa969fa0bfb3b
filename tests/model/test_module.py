"""The module: label-only head, token-mean loss, prompts, neutral boundaries, generation."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.collate import IGNORE, prompt_batch
from cl_lightning.evaluation.generate import generate
from cl_lightning.initializers.slice import SLICE
from cl_lightning.model.backbone import Backbone, fingerprint
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.try_out import head_is_plain
from tests.conftest import batch_of, random_examples


def plain_nll(module: ContinualLM, batch: dict) -> torch.Tensor:
    """Compute the NLL from full logits, by its definition."""
    logits = module.llm(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logp = logits.log_softmax(-1)
    out = []
    for row, labels in enumerate(batch["labels"]):
        wanted = [i for i in range(1, len(labels)) if labels[i] != IGNORE]
        out.append(-sum(logp[row, i - 1, labels[i]] for i in wanted))
    return torch.stack(out)


@pytest.mark.parametrize("label_only", [True, False])
def test_sample_nll_equals_the_definition(tiny: Callable[..., ContinualLM], label_only: bool) -> None:
    module = tiny("float64")
    assert module._label_only
    module._label_only = label_only
    batch = batch_of(random_examples(5))
    assert torch.allclose(module.sample_nll(batch), plain_nll(module, batch), atol=1e-10)


def test_a_head_that_is_not_a_plain_product_is_detected(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    plain = module.llm.forward

    def capped(**inputs: torch.Tensor) -> object:
        out = plain(**inputs)
        out.logits = 5 * torch.tanh(out.logits / 5)
        return out

    module.llm.forward = capped
    assert not head_is_plain(module.llm)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("task", [0, 1])
def test_initialisation_changes_no_logit(
    tiny: Callable[..., ContinualLM], dtype: str, task: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl_lightning.model.backbone.held_dtype", lambda dtype: dtype)
    module = tiny(dtype, SeqLoRA(rank=4, alpha=8, fold_into="stack"))
    assert module.llm.dtype == getattr(torch, dtype)
    batch = batch_of(random_examples(4))
    rng = torch.Generator().manual_seed(0)

    def initialise() -> None:
        for name, g in module.gradients([batch]).items():
            layer = module.adapter.layers[name]
            module.adapter.set_factors(name, *SLICE().factors(layer.dense_weight(), g, 4, module.adapter.scaling, rng))

    for t in range(task + 1):
        module.adapter.begin_task(t, rng)
        before = module.llm(input_ids=batch["input_ids"]).logits
        initialise()
        assert torch.equal(module.llm(input_ids=batch["input_ids"]).logits, before)
        for layer in module.adapter.layers.values():
            assert layer.lora_B0 is not None
            layer.lora_B.data += 0.05
        assert not torch.equal(module.llm(input_ids=batch["input_ids"]).logits, before)
        module.adapter.end_task(t)


@pytest.mark.parametrize("per_task", ["fresh_folded", "continue"])
@pytest.mark.parametrize("fold_into", ["stack", "weight"])
def test_restored_strategy_equals_the_original(tiny: Callable[..., ContinualLM], per_task: str, fold_into: str) -> None:
    def make() -> ContinualLM:
        return tiny("float64", SeqLoRA(rank=3, per_task=per_task, fold_into=fold_into))

    module, rng, states = make(), torch.Generator().manual_seed(0), []
    for t in range(3):
        module.adapter.begin_task(t, rng)
        for layer in module.adapter.layers.values():
            layer.lora_B.data += 0.1 * torch.randn(layer.lora_B.shape, generator=rng, dtype=torch.float64)
        states.append({k: v.clone() for k, v in module.adapter.task_state().items()})
        module.adapter.end_task(t)
    other = make()
    other.adapter.restore(states)
    ids = torch.arange(3, 23).reshape(2, 10)
    assert torch.equal(other.llm(input_ids=ids).logits, module.llm(input_ids=ids).logits)


def test_step_losses_of_any_split_add_up_to_the_token_mean(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    examples = random_examples(7)
    whole = batch_of(examples)
    mean = module.sample_nll(whole).sum() / whole["step_tokens"]
    shares = [examples[:2], examples[2:3], examples[3:6], examples[6:]]  # 2 ranks x 2 micro-batches
    batches = [{**batch_of(s), "step_tokens": whole["step_tokens"]} for s in shares]
    parts = [module.sample_nll(b).sum() * module.step_weight(b, 2, 2) for b in batches]
    means = [module.sample_nll(batch_of(s)).sum() / batch_of(s)["step_tokens"] for s in shares]
    assert torch.allclose(sum(parts) / 4, mean, atol=1e-12)  # DDP and accumulation average
    assert not torch.allclose(sum(means) / 4, mean, atol=1e-3)  # negative control


def test_left_padding_and_batching_do_not_change_fp32_strings(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float32")
    prompts = [e.prompt_ids for e in random_examples(9, seed=3)]
    alone = [generate(module.llm, module.tokenizer, [p], 8, 1)[0] for p in prompts]
    assert len(set(alone)) > 3
    assert generate(module.llm, module.tokenizer, prompts, 8, 4) == alone


def test_right_padding_would_change_them(tiny: Callable[..., ContinualLM], monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny("float32")
    prompts = [e.prompt_ids for e in random_examples(9, seed=3)]
    good = generate(module.llm, module.tokenizer, prompts, 8, 9)
    right = partial(prompt_batch, left=False)
    monkeypatch.setattr("cl_lightning.evaluation.generate.prompt_batch", lambda rows, pad, left, own: right(rows, pad))
    assert generate(module.llm, module.tokenizer, prompts, 8, 9) != good


def test_refused_adapters(tiny: Callable[..., ContinualLM]) -> None:
    with pytest.raises(ConfigError, match=r"rank: 65 is larger than .*q_proj .64 x 64"):
        tiny("float32", SeqLoRA(rank=65))
    with pytest.raises(ConfigError, match=r"matches no linear layer.*did you mean q_proj"):
        tiny("float32", SeqLoRA(targets=["q_prj"]))
    with pytest.raises(ConfigError, match="needs a float32 base"):
        tiny("float16", SeqLoRA(fold_into="weight"))


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 8 / 4), (True, 8 / 2)])
def test_a_branch_is_scaled_by_alpha_over_the_rank_or_its_root(
    tiny: Callable[..., ContinualLM], rslora: bool, scaling: float
) -> None:
    module = tiny("float64", SeqLoRA(rank=4, alpha=8, rslora=rslora))
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    for layer in module.adapter.layers.values():
        layer.lora_B.data += 0.1
        x = torch.randn(2, layer.in_features, dtype=torch.float64)
        assert torch.allclose(layer(x) - layer.base(x), scaling * x @ layer.lora_A.t() @ layer.lora_B.t(), atol=1e-12)


def test_targets_by_name(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float32", SeqLoRA(rank=2, targets=["q_proj", "v_proj"]))
    assert {n.rsplit(".", 1)[1] for n in module.adapter.layers} == {"q_proj", "v_proj"}
    assert len(module.adapter.layers) == 4
    assert type(module.llm.lm_head) is nn.Linear


def test_fingerprint_changes_with_one_number() -> None:
    backbone = Backbone("random-llama", dtype="float32")
    size = len(backbone.load_tokenizer())
    one, two = backbone.load(size), backbone.load(size)
    assert fingerprint(one) == fingerprint(two)
    next(two.parameters()).view(-1)[7] += 1e-3
    assert fingerprint(one) != fingerprint(two)


def test_each_model_has_a_strategy_of_its_own() -> None:
    one, two = (ContinualLM(Backbone("random-llama", dtype="float32")) for _ in range(2))
    for module in (one, two):
        module.load(module.backbone.load_tokenizer())
    assert all(layer in set(one.llm.modules()) for layer in one.adapter.layers.values())
    assert all(layer in set(two.llm.modules()) for layer in two.adapter.layers.values())
    with pytest.raises(ConfigError, match=r"model.adapter: this SeqLoRA is in another model; give each its own"):
        ContinualLM(Backbone("random-llama"), one.adapter).load(one.tokenizer)
