"""Roles in `targets`, on every architecture: which layers they mean, and what they leave out and say."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.linear_layers import as_linear
from cl_lightning.adapters.roles import ALL, ROLES
from cl_lightning.common.errors import ConfigError
from tests.families import BART, FAMILIES, IDS, make

USUAL = (["q_proj", "v_proj"], ["k_proj", "o_proj", "q_proj", "v_proj"], ["down_proj", "gate_proj", "up_proj"])
FUSED = (["query_key_value"], ["dense", "query_key_value"], ["dense_4h_to_h", "dense_h_to_4h"])
OUTSIDE = (["q_proj", "v_proj"], ["k_proj", "out_proj", "q_proj", "v_proj"], ["fc1", "fc2"])
GATED_T5 = (["q", "v"], ["k", "o", "q", "v"], ["wi_0", "wi_1", "wo"])
STACKED = (*USUAL[:2], [])
#: Family -> the layers, by the last part of their names, that are query_value, attention and mlp.
MEANT: dict[str, Sequence[list[str]]] = {
    **dict.fromkeys(FAMILIES, USUAL),
    **dict.fromkeys(("Mixtral", "Qwen3-MoE", "GPT-OSS"), STACKED),
    **dict.fromkeys(("GPT-NeoX", "Bloom", "Falcon"), FUSED),
    **dict.fromkeys(("OPT", "BART", "mBART"), OUTSIDE),
    **dict.fromkeys(("FLAN-T5", "UMT5", "mT5"), GATED_T5),
    "T5": (["q", "v"], ["k", "o", "q", "v"], ["wi", "wo"]),
    "GPT-2": (["c_attn"], ["c_attn", "c_proj"], ["c_fc", "c_proj"]),
    "MPT": (["Wqkv"], ["Wqkv", "out_proj"], ["down_proj", "up_proj"]),
    "Phi-3": (["qkv_proj"], ["o_proj", "qkv_proj"], ["down_proj", "gate_up_proj"]),
    "DeepSeek-V3": (
        ["kv_b_proj", "q_b_proj"], ["kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj"], USUAL[2],
    ),
    "Qwen3-Next": (
        ["in_proj_qkvz", "q_proj", "v_proj"],
        ["in_proj_ba", "in_proj_qkvz", "k_proj", "o_proj", "out_proj", "q_proj", "v_proj"], USUAL[2],
    ),
    "RWKV": (["value"], ["key", "output", "receptance", "value"], ["key", "receptance", "value"]),
    "Mamba": ([], [], []),
    "Mamba-2": ([], [], []),
}  # fmt: skip


def attached(llm: tf.PreTrainedModel, targets: Any, rank: int = 2) -> IncLoRA:
    adapter = IncLoRA(rank=rank, targets=targets)
    adapter.attach(llm.requires_grad_(False), llm.get_output_embeddings())
    return adapter


@pytest.mark.parametrize("family", FAMILIES)
def test_a_role_means_the_same_on_every_family(family: str) -> None:
    config = FAMILIES[family]()
    counts = []
    for role, ends in zip(("query_value", "attention", "mlp"), MEANT[family], strict=True):
        if not ends:
            with pytest.raises(ConfigError, match=f"targets: {role} matches no linear layer of the model"):
                attached(make(config), role)
            continue
        adapter = attached(make(config), role)
        assert sorted({name.rpartition(".")[2] for name in adapter.layers}) == ends
        fused = role == "query_value" and any(
            end not in ("q", "v", "q_proj", "v_proj", "q_b_proj", "value") for end in ends
        )
        assert fused == any("keys too and" in line for line in adapter.remarks), adapter.remarks
        counts.append(len(adapter.layers))
    if len(counts) == 3:  # each layer of the blocks has one of the roles
        every = attached(make(config), "all-linear")
        assert len(every.layers) == counts[1] + counts[2] and counts[0] < counts[1]


JETMOE = {"hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4,
          "intermediate_size": 32}  # fmt: skip
SAID = {
    "RWKV": (FAMILIES["RWKV"](), "query_value: no linear layer gives queries"),
    "JetMoE": (
        tf.JetMoeConfig(**IDS, **JETMOE),
        "query_value: kv_proj gives keys too and is adapted whole; no linear layer gives queries",
    ),
}


@pytest.mark.parametrize("family", SAID)
def test_a_model_without_queries_of_its_own_is_told(family: str) -> None:
    config, expected = SAID[family]
    assert expected in attached(make(config), "query_value").remarks
    assert not attached(make(FAMILIES["Llama"]()), "query_value").remarks, "negative control"


def test_the_feed_forward_layers_of_bert_have_their_role() -> None:
    config = tf.BertConfig(
        **{**IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}, is_decoder=True
    )
    names = attached(make(config), "mlp").layers
    assert sorted(name.partition("layer.")[2] for name in names) == [
        "0.intermediate.dense", "0.output.dense", "1.intermediate.dense", "1.output.dense",
    ]  # fmt: skip


def test_an_expression_matches_whole_names() -> None:
    adapter = attached(make(FAMILIES["Llama"]()), r"model\.layers\.1\..*(q|up)_proj")
    assert list(adapter.layers) == ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]


def test_what_is_too_small_is_left_out_and_told() -> None:
    adapter = attached(make(FAMILIES["Qwen3-Next"]()), "all-linear", rank=1)
    assert not any("shared_expert_gate" in name for name in adapter.layers) and len(adapter.layers) == 13
    assert adapter.remarks[0] == "not adapted, since too small for rank 1: mlp.shared_expert_gate (1 x 32)"
    named = attached(make(FAMILIES["Qwen3-Next"]()), ["shared_expert_gate"], rank=1)
    assert len(named.layers) == 2, "by name, what fits is adapted"
    with pytest.raises(ConfigError, match=r"rank: 2 is larger than .*shared_expert_gate \(1 x 32\); use at most 1"):
        attached(make(FAMILIES["Qwen3-Next"]()), ["shared_expert_gate"])


def test_layers_that_the_model_does_not_call_are_left_out_and_told() -> None:
    adapter = attached(make(FAMILIES["Mamba"]()), "all-linear")
    assert sorted({name.rpartition(".")[2] for name in adapter.layers}) == ["in_proj", "out_proj", "x_proj"]
    assert "not adapted, since the model does not call them: mixer.dt_proj (2 layers)" in adapter.remarks
    # What is left gets a gradient; a branch on dt_proj would not.
    adapter.begin_task(0, torch.Generator().manual_seed(0))


def test_layers_that_run_for_other_inputs_alone_are_left_out_and_told() -> None:
    config = tf.LEDConfig(**BART, max_encoder_position_embeddings=512, attention_window=8)
    adapter = attached(make(config), "all-linear")
    assert not any("_global" in name for name in adapter.layers)
    (line,) = [line for line in adapter.remarks if "does not call" in line]
    assert "self_attn.longformer_self_attn.query_global" in line and "(3 layers)" in line
    with pytest.raises(ConfigError, match=r"does not call .*query_global, so a branch would not run; leave it out"):
        attached(make(config), ["query_global"])


def test_of_a_model_of_images_the_text_model_alone_is_adapted() -> None:
    config = FAMILIES["Gemma 3 with vision"]()
    llm = make(config)
    vision = [n for n, m in llm.named_modules() if isinstance(m, nn.Linear) and "vision" in n]
    assert vision, "negative control: there is something to leave out"
    for targets in ("all-linear", ["q_proj", "v_proj"]):
        adapter = attached(make(config), targets)
        assert all(".language_model.layers." in name for name in adapter.layers)
        assert adapter.remarks == ["not adapted, since text does not reach it: vision_tower, multi_modal_projector"]


# --- Conv1D ------------------------------------------------------------------------------------------------


def gpt2() -> tf.PreTrainedModel:
    return make(tf.GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)).double()


def logits(llm: tf.PreTrainedModel) -> Tensor:
    return llm(input_ids=torch.arange(3, 40)[None], use_cache=False).logits


def test_conv1d_is_adapted_as_the_linear_layer_that_it_is() -> None:
    plain, llm = gpt2(), gpt2()
    adapter = attached(llm, "all-linear")
    assert len(adapter.layers) == 8 and adapter.layers["transformer.h.0.mlp.c_fc"].shape == (128, 32)
    adapter.begin_task(0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(llm), logits(plain), rtol=0, atol=1e-12)
    for layer in adapter.layers.values():
        layer.lora_B.data.normal_(0, 0.2)
    loss = logits(llm).square().mean()
    loss.backward()
    for name, layer in adapter.layers.items():  # W + s B A, stored transposed
        plain.get_submodule(name).weight.data += layer.update().detach().t()
    wanted = logits(plain)
    torch.testing.assert_close(loss.detach(), wanted.square().mean().detach(), rtol=1e-12, atol=0)
    name, layer = next(iter(adapter.layers.items()))
    weight = plain.get_submodule(name).weight
    (gradient,) = torch.autograd.grad(logits(plain).square().mean(), [weight.requires_grad_()])
    # dLoss/dB = s G A^T with G (m, n)
    torch.testing.assert_close(layer.lora_B.grad, adapter.scaling * gradient.t() @ layer.lora_A.detach().t())
    assert as_linear(nn.Linear(2, 3)).weight.shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        # RecurrentGemma
        ("model.layers.2.temporal_block.q_proj", {"query_value", "attention"}),
        ("model.layers.2.temporal_block.o_proj", {"attention"}),
        ("model.layers.0.temporal_block.linear_x", set()),
        ("model.layers.0.mlp_block.up_proj", {"mlp"}),
        # Nemotron-H: attention, feed-forward and state-space layers are all called mixer
        ("backbone.layers.3.mixer.v_proj", {"query_value", "attention"}),
        ("backbone.layers.1.mixer.down_proj", {"mlp"}),
        ("backbone.layers.0.mixer.in_proj", set()),
        # Granite-MoE-hybrid
        ("model.layers.0.shared_mlp.input_linear", {"mlp"}),
        # ProphetNet
        ("prophetnet.encoder.layers.0.self_attn.query_proj", {"query_value", "attention"}),
    ],
)
def test_roles_of_layers_in_modules_of_other_names(name: str, roles: set[str]) -> None:
    assert {role for role, means in ROLES.items() if role != ALL and means(name)} == roles
