"""Which layers are adapted: every name must match, and what a model has beside linear layers is told."""

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.adapters.targets import left_out
from cl_lightning.common.errors import ConfigError

SIZES: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def llama() -> tf.PreTrainedModel:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES))


def experts() -> tf.PreTrainedModel:
    return tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, mlp_only_layers=[0])
    )


def routed() -> tf.PreTrainedModel:
    """Its routers are linear layers, its experts are stacked."""
    sizes = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
    return tf.PhimoeForCausalLM(tf.PhimoeConfig(**sizes))


def mamba() -> tf.PreTrainedModel:
    return tf.MambaForCausalLM(tf.MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, state_size=4))


def convolutions() -> tf.PreTrainedModel:
    llm = llama()
    llm.model.layers = nn.ModuleList([nn.Conv1d(4, 4, 3)])
    return llm


def attached(llm: tf.PreTrainedModel, targets: Any) -> SeqLoRA:
    adapter = SeqLoRA(rank=1, targets=targets)
    adapter.attach(llm, llm.get_output_embeddings())
    return adapter


NAMES = "did you mean v_proj or q_proj\\? valid: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
REFUSED = {
    "a typo beside a valid name": (llama, ["q_proj", "v_porj"], rf"\['v_porj'\] matches no linear layer .*; {NAMES}"),
    "a typo in front of it": (llama, ["v_porj", "q_proj"], rf"\['v_porj'\] matches no linear layer .*; {NAMES}"),
    "two typos": (llama, ["v_porj", "q_proj", "up"], rf"\['v_porj', 'up'\] matches no linear layer .*; {NAMES}"),
    "half a name": (llama, ["q_proj", "proj"], r"\['proj'\] matches no linear layer of the model; did you mean"),
    "a block of layers": (llama, ["q_proj", "self_attn"], "self_attn is of type LlamaAttention, only linear"),
    "a role in brackets": (llama, ["q_proj", "mlp"], "write mlp without brackets for the role"),
    "a name without brackets": (llama, "q_proj", r"; as a name, write \[q_proj\]; did you mean"),
    "a misspelt role": (llama, "query_vlaue", "did you mean query_value"),
    "an expression that matches nothing": (llama, r".*\.7\..*_proj", "matches no linear layer of the model"),
    "no expression": (llama, "q_proj)", r"'q_proj\)' is no regular expression \(unbalanced parenthesis"),
    "attention where there is none": (mamba, "attention", "matches no .*; write all-linear, or names of"),
    "the experts of a dense model": (llama, "experts", "experts matches no linear layer of the model; write"),
    "stacked experts": (experts, "experts", r"which holds it in mlp.experts.gate_up_proj, .*, not in"),
    "a role of routers": (routed, "mlp", r"mlp is mlp\.router alone, which chooses experts and gets no branch by"),
    "weights that are not called": (mamba, ["dt_proj"], "the model does not call .*0.mixer.dt_proj, so a branch"),
    "an embedding": (llama, ["embed_tokens", "q_proj"], "embed_tokens is of type Embedding, only linear layers"),
    "the output head": (llama, ["q_proj", "lm_head"], "lm_head is the output head, only linear layers"),
    "a typo in a longer name": (llama, ["self_attn.v_poj"], r"did you mean self_attn\.v_proj"),
    "a layer that is not there": (llama, ["layers.7.mlp.up_proj"], r"did you mean layers\.[01]\.mlp\.up_proj"),
    "all-linear in brackets": (llama, ["all-linear"], "must be names of layers; write all-linear without brackets for"),
    "an empty name": (llama, ["q_proj", ""], "must be names of layers"),
    "nothing": (llama, [], r"\[\] matches no linear layer of the model; there are \['down_proj'"),
    "a stack of experts": (experts, ["q_proj", "gate_up_proj"], "gate_up_proj is of type Parameter, only linear"),
    "no linear layer at all": (convolutions, "all-linear", r"have Conv1d \(weight\) and no linear layer"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_target_without_a_linear_layer_is_refused_and_nothing_is_adapted(what: str) -> None:
    make, targets, expected = REFUSED[what]
    llm = make()
    names = [name for name, _ in llm.named_modules()]
    with pytest.raises(ConfigError, match=expected) as error:
        attached(llm, targets)
    assert "\n" not in str(error.value)
    assert names == [name for name, _ in llm.named_modules()]


def test_names_may_be_as_long_as_they_are_and_overlap() -> None:
    assert len(attached(llama(), ["model.layers.1.mlp.up_proj", "mlp.up_proj", "k_proj"]).layers) == 4


def test_what_is_stacked_is_said_with_its_share() -> None:
    llm = experts()
    inside = {n: p.numel() for n, p in llm.named_parameters() if "embed_tokens" not in n and "lm_head" not in n}
    stacked = {n: size for n, size in inside.items() if "layers.1.mlp." in n}
    adapter = attached(llm, "all-linear")
    assert adapter.remarks == [
        "not adapted, since not nn.Linear: mlp.experts.gate_up_proj, mlp.experts.down_proj, mlp.gate.weight "
        f"(3 weights, {100 * sum(stacked.values()) / sum(inside.values()):.1f} % of the blocks' parameters)"
    ]
    assert len(stacked) == 3 and not any("experts" in name for name in adapter.layers)


def test_targets_that_also_match_stacked_weights_are_reported_others_are_not() -> None:
    assert "mlp.experts.down_proj (1 weight, " in attached(experts(), ["down_proj", "q_proj"]).remarks[0]
    assert attached(experts(), ["q_proj"]).remarks == []


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_linear_layers_gets_no_line(tied: bool) -> None:
    assert attached(tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, tie_word_embeddings=tied)), "all-linear").remarks == []
    t5 = tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=100, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    )
    assert attached(t5, "all-linear").remarks == []


def test_the_share_counts_a_quantised_weight_by_what_it_holds() -> None:
    """Two numbers of a 4-bit weight are one byte of its storage."""
    import bitsandbytes as bnb

    block = nn.Module()
    block.linear, block.experts = nn.Linear(64, 64, bias=False), nn.Parameter(torch.ones(2, 64, 64))
    plain = left_out(block, None, "all-linear")
    quantised = bnb.nn.Linear4bit(64, 64, bias=False)
    quantised.load_state_dict(block.linear.state_dict())
    block.linear = quantised.to("cpu")
    assert block.linear.weight.numel() < 64 * 64
    assert left_out(block, None, "all-linear") == plain and "66.7 %" in plain


def test_routers_have_no_role_and_are_adapted_by_name() -> None:
    by_role = attached(routed(), "all-linear")
    assert not [name for name in by_role.layers if "router" in name]
    assert "not adapted, since they choose experts: mlp.router (2 layers)" in by_role.remarks
    assert [name for name in attached(routed(), ["router"]).layers if "router" in name]
