"""Names and shapes of layers as other architectures have them: PEFT's model and the merged folder are one model."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import (
    BartConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from cl_lightning.adapters.linear_layers import shape_of
from cl_lightning.adapters.targets import chosen_layers
from cl_lightning.export.merged import merge_into
from cl_lightning.export.peft import adapter_config, tensors
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.checkpoint import model_kind
from tests.export.test_peft import logits
from tests.families import FAMILIES

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 48}
CONFIGS = (
    MixtralConfig(**HEADS, num_local_experts=2),
    Gemma2Config(**HEADS, head_dim=8),
    GPTNeoXConfig(**SIZES, intermediate_size=48),
    GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=4, initializer_range=0.1),
    FAMILIES["LLaVA"](),
    FAMILIES["Qwen2-VL"](),
    BartConfig(
        vocab_size=300, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, init_std=0.1,
    ),
)  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_peft_and_merged_weights_are_one_model(config: PreTrainedConfig, tmp_path: Path) -> None:
    auto = model_kind(config)

    def loaded(folder: str) -> PreTrainedModel:
        return auto.from_pretrained(tmp_path / folder).eval()

    auto.from_config(config).save_pretrained(tmp_path / "base")
    llm = loaded("base")
    before = logits(llm)
    updates = {
        name: LowRank(*(0.1 * torch.randn(size, 3, dtype=torch.float64) for size in shape_of(layer)))
        for name, layer in chosen_layers(llm, llm.get_output_embeddings(), "all-linear").items()
    }
    (tmp_path / "peft").mkdir()
    made = adapter_config(llm, Backbone("base"), updates)
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(made))
    save_file(tensors(updates), tmp_path / "peft" / "adapter_model.safetensors")
    theirs = logits(PeftModel.from_pretrained(loaded("base"), tmp_path / "peft").eval())
    assert (theirs - before).abs().max() > 1e-2
    merge_into(llm, updates, torch.float32)
    llm.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(theirs, logits(loaded("merged")), rtol=1e-5, atol=1e-5)
