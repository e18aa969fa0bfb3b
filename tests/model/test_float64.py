"""A float64 model computes in float64: norms, softmax, position angles."""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from cl_lightning.model.backbone import Backbone
from cl_lightning.model.precision import keep_float64, widened
from cl_lightning.model.random_llama import random_model, random_tokenizer


def by_hand(llm: nn.Module, ids: Tensor) -> Tensor:
    """Logits (L, V) of one sequence, from the equations of Llama with grouped-query attention."""
    config, L = llm.config, len(ids)
    groups = config.num_attention_heads // config.num_key_value_heads
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
    angle = torch.arange(L, dtype=torch.float64)[:, None] * config.rope_parameters["rope_theta"] ** (
        -half / config.head_dim
    )
    cos, sin = torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()
    hide = torch.full((L, L), -torch.inf, dtype=torch.float64).triu(1)

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        return layer.weight * x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    def heads(x: Tensor, count: int, turn: bool) -> Tensor:
        x = x.reshape(L, count, -1).transpose(0, 1)
        a, b = x.chunk(2, dim=-1)
        x = x * cos + torch.cat([-b, a], -1) * sin if turn else x
        return x.repeat_interleave(config.num_attention_heads // count, 0)

    x = llm.model.embed_tokens.weight[ids]
    for layer in llm.model.layers:
        h, attention = norm(layer.input_layernorm, x), layer.self_attn
        q = heads(h @ attention.q_proj.weight.T, config.num_attention_heads, True)
        k = heads(h @ attention.k_proj.weight.T, config.num_attention_heads // groups, True)
        v = heads(h @ attention.v_proj.weight.T, config.num_attention_heads // groups, False)
        mixed = (q @ k.transpose(1, 2) / config.head_dim**0.5 + hide).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).reshape(L, -1) @ attention.o_proj.weight.T
        h, mlp = norm(layer.post_attention_layernorm, x), layer.mlp
        x = x + (nn.functional.silu(h @ mlp.gate_proj.weight.T) * (h @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    return norm(llm.model.norm, x) @ llm.lm_head.weight.T


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_logits_equal_the_equations(attention: str) -> None:
    ids = torch.arange(5, 69, 3)
    wide = Backbone("random-llama", dtype="float64").load(len(random_tokenizer()))
    wide.set_attn_implementation(attention)
    wanted = by_hand(wide, ids)
    assert float((wide(ids[None]).logits[0] - wanted).abs().max()) < 1e-12
    narrow = random_model(len(random_tokenizer()), {}).to(torch.float64)
    narrow.set_attn_implementation(attention)
    assert float((narrow(ids[None]).logits[0] - wanted).abs().max()) > 1e-9, "negative control: transformers' own"


def test_other_dtypes_are_unchanged() -> None:
    llm = Backbone("random-llama", dtype="float32").load(len(random_tokenizer()))
    assert llm.model.rotary_emb.inv_freq.dtype == torch.float32
    assert not any(module._forward_pre_hooks for module in llm.modules())


def test_widening_ends_after_a_failure() -> None:
    norm = LlamaRMSNorm(4).double()
    keep_float64(norm)
    with pytest.raises(RuntimeError):
        norm(torch.zeros(2, 3, dtype=torch.float64))
    assert torch.zeros(1, dtype=torch.float64).float().dtype == torch.float32
    with widened(), widened():
        assert torch.zeros(1).float().dtype == torch.float64
    assert torch.zeros(1, dtype=torch.float64).float().dtype == torch.float32
