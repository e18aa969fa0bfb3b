"""Gates in models that hand their layers no arguments, flatten their inputs or route their tokens.

The reference is each sample alone on weights with its own share of the branch merged.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.end_tokens import before_end
from cl_lightning.evaluation.generate import continuations
from cl_lightning.model.random_llama import random_tokenizer

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 300}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, Callable[[], Any]] = {
    # no arguments for the layers
    "falcon": lambda: tf.FalconConfig(**SMALL, alibi=True, **IDS),
    "bloom": lambda: tf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **IDS),
    "mpt": lambda: tf.MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **IDS),
    "mamba": lambda: tf.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **IDS),
    # inputs flattened to (B L, n), or of four dimensions
    "opt": lambda: tf.OPTConfig(**SMALL, ffn_dim=48, max_position_embeddings=64, dropout=0.0, **IDS),
    "deepseek_v3": lambda: tf.DeepseekV3Config(
        **SMALL, intermediate_size=48, moe_intermediate_size=16, num_key_value_heads=4, n_routed_experts=4, n_group=1,
        topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=16, v_head_dim=8,
        qk_rope_head_dim=8, qk_nope_head_dim=8, max_position_embeddings=64, **IDS,
    ),
    "qwen3_next": lambda: tf.Qwen3NextConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, head_dim=8, linear_num_value_heads=4, num_experts=4,
        linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, full_attention_interval=2,
        num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16, **IDS,
    ),
    "llama": lambda: tf.LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, **IDS),
}  # fmt: skip
#: Of one length: Bloom's and Mamba's padding is another matter.
PROMPTS = torch.randint(3, 290, (3, 9), generator=torch.Generator().manual_seed(5))


def gated(llm: Any) -> GainLoRA:
    """A gate and a branch far from zero on every linear layer that is called as such (Mamba's dt_proj is not)."""
    llm.eval().requires_grad_(False)
    mamba = llm.config.model_type == "mamba"
    adapter = GainLoRA(IncLoRA(rank=1, targets=["in_proj", "x_proj", "out_proj"] if mamba else "all-linear"), width=6)
    adapter.attach(llm, llm.get_output_embeddings())
    adapter.begin_task(0, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    for layer in adapter.layers.values():
        layer.lora_B.data.normal_(0, 0.05, generator=rng)
    return adapter


@pytest.fixture(params=FAMILIES)
def made(request: pytest.FixtureRequest) -> tuple[Any, GainLoRA]:
    torch.manual_seed(0)
    llm = tf.AutoModelForCausalLM.from_config(FAMILIES[request.param]())
    for weight in llm.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.2)
    return llm, gated(llm)


@contextmanager
def merged(adapter: GainLoRA, gate: Tensor) -> Iterator[None]:
    """No branches, and on each weight the branch's update times this sample's gate."""
    layers = list(adapter.layers.values())
    before = [layer.base.weight.data for layer in layers]
    with torch.no_grad(), adapter.without_new_branch():
        for layer in layers:
            layer.base.weight.data = layer.base.weight + gate * layer.update()
        yield
        for layer, weight in zip(layers, before, strict=True):
            layer.base.weight.data = weight


def batch_of(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "own_mask": torch.ones_like(ids)}


def test_each_samples_logits_are_those_of_its_own_merged_weights(made: tuple[Any, GainLoRA]) -> None:
    llm, adapter = made
    gates = adapter.forward_kwargs(batch_of(PROMPTS))["gates"].detach()
    assert gates.std() > 1e-3
    with torch.no_grad():
        both = [part(input_ids=PROMPTS, gates=gates, use_cache=False)[0] for part in (llm, llm.base_model)]
        swapped = llm(input_ids=PROMPTS, gates=gates.flip(0), use_cache=False).logits
    for i, row in enumerate(PROMPTS):
        with merged(adapter, gates[i, 0]):
            alone = [part(input_ids=row[None], use_cache=False)[0] for part in (llm, llm.base_model)]
        for ours, wanted in zip(both, alone, strict=True):
            torch.testing.assert_close(ours[i], wanted[0], rtol=1e-4, atol=1e-4)
    assert (swapped - both[0])[0].abs().max() > 1e-2, "negative control: another sample's gate"
    with pytest.raises(ConfigError, match="the call has no gates"):
        llm(input_ids=PROMPTS)


def test_every_step_of_generation_has_the_gates(made: tuple[Any, GainLoRA]) -> None:
    llm, adapter = made
    tokenizer = random_tokenizer()
    tokenizer.chat_template = None
    prompts = PROMPTS.tolist()
    ours = continuations(llm, tokenizer, prompts, 6, 3, [None] * 3, adapter.forward_kwargs)
    gates = adapter.forward_kwargs(batch_of(PROMPTS))["gates"].detach()
    alone = []
    for prompt, gate in zip(prompts, gates, strict=True):
        with merged(adapter, gate[0]):
            alone += continuations(llm, tokenizer, [prompt], 6, 1)
    assert [before_end(row, {2}) for row in ours] == [before_end(row, {2}) for row in alone]
    assert any(ours)


def test_gradients_under_checkpointing_are_those_without(made: tuple[Any, GainLoRA]) -> None:
    llm, adapter = made
    llm.train()
    trained = [p for group in adapter.param_groups() for p in group["params"]]
    runs = [0]
    first = next(iter(adapter.layers.values()))
    first.register_forward_pre_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))

    def gradients() -> list[Tensor | None]:
        gates = adapter.forward_kwargs(batch_of(PROMPTS))["gates"]
        logits = llm(input_ids=PROMPTS, gates=gates, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), PROMPTS[:, 1:].flatten())
        return list(torch.autograd.grad(loss, trained, allow_unused=True))

    plain = gradients()
    once = runs[0]
    llm.activation_checkpointing_enable({"use_reentrant": False})
    again = gradients()
    assert runs[0] == 3 * once, "layers run again in backward"
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert all(g is not None and g.any() for g in again[-3:]), "the gate learns"


class Routed(nn.Module):
    """Each token to one of two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(32, 2, bias=False)
        self.experts = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        chosen, out = self.router(flat).argmax(-1), torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            out[chosen == index] = expert(flat[chosen == index])
        return out.reshape(x.shape)


class Sorted(Routed):
    """All tokens to one expert, in an order of their own."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        order = self.router(flat)[:, 0].argsort()
        return torch.zeros_like(flat).index_copy(0, order, self.experts[0](flat[order])).reshape(x.shape)


class Transposed(Routed):
    """Tokens first, then samples."""

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[0](x.transpose(0, 1)).transpose(0, 1)


class Rare(Routed):
    """An expert that only long inputs reach."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return (self.experts[0](flat) + (self.experts[1](flat) if x.shape[1] > 20 else 0)).reshape(x.shape)


class Partial(Routed):
    """An expert that reads all tokens of short inputs and a third of longer ones."""

    def forward(self, x: Tensor) -> Tensor:
        flat, out = x.reshape(-1, x.shape[-1]), torch.zeros_like(x).reshape(-1, x.shape[-1])
        some = slice(None, None, 3 if x.shape[1] > 20 else 1)
        out[some] = self.experts[1](flat[some])
        return out.reshape(x.shape)


def with_mlp(mlp: nn.Module) -> Any:
    llm = tf.AutoModelForCausalLM.from_config(FAMILIES["llama"]())
    llm.model.layers[1].mlp = mlp
    return llm


@pytest.mark.parametrize("kind", [Routed, Sorted, Transposed])
def test_layers_that_read_tokens_in_another_order_are_refused_before_training(kind: type[nn.Module]) -> None:
    with pytest.raises(
        ConfigError, match=r"targets: gates cannot be applied to model\.layers\.1\.mlp\.experts\.\d, "
    ) as error:
        gated(with_mlp(kind()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [Rare, Partial])
def test_a_layer_that_reads_something_else_later_is_refused_then(kind: type[nn.Module]) -> None:
    llm = with_mlp(kind())
    adapter = gated(llm)
    short, long = (PROMPTS[:, :1].expand(-1, length) for length in (9, 21))
    llm(input_ids=short, **adapter.forward_kwargs(batch_of(short)))
    with pytest.raises(ConfigError, match=r"do not fit model\.layers\.1\.mlp\.experts\.1's input of shape"):
        llm(input_ids=long, **adapter.forward_kwargs(batch_of(long)))
