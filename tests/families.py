"""Tiny untrained models of many architectures, made in code, with a byte-level tokenizer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import processors

from cl_lightning.model.checkpoint import model_kind
from cl_lightning.model.random_llama import random_tokenizer

IDS: dict[str, Any] = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES: dict[str, Any] = {
    **IDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
WHOLE: dict[str, Any] = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")}
SHORT: dict[str, Any] = {**SIZES, "sliding_window": 16}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
T5: dict[str, Any] = {
    **IDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0,
    "dropout_rate": 0.0, "tie_word_embeddings": True,
}  # fmt: skip
BART: dict[str, Any] = {
    **IDS, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 512,
    "decoder_start_token_id": 2, "init_std": 0.2, "dropout": 0.0,
}  # fmt: skip

#: The part of a model that reads images.
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
QWEN_VL: dict[str, Any] = {
    "text_config": {
        **{k: v for k, v in SIZES.items() if k != "head_dim"},
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    },
    "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8,
}  # fmt: skip

#: Family -> its configuration.
FAMILIES: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "Llama": partial(tf.LlamaConfig, **SIZES),
    "Qwen2": partial(tf.Qwen2Config, **{k: v for k, v in SIZES.items() if k != "head_dim"}, tie_word_embeddings=True),
    "Qwen3": partial(tf.Qwen3Config, **SIZES),
    "Qwen3-Next": partial(
        tf.Qwen3NextConfig, **SIZES, **EXPERTS, linear_num_value_heads=4, linear_num_key_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8, full_attention_interval=2,
        shared_expert_intermediate_size=16,
    ),
    "Mistral": partial(tf.MistralConfig, **SHORT),
    "Ministral": partial(tf.MinistralConfig, **SHORT),
    "Gemma 2": partial(tf.Gemma2Config, **SHORT, final_logit_softcapping=5.0, attn_logit_softcapping=5.0),
    "Gemma 3": partial(tf.Gemma3TextConfig, **SHORT),
    "Gemma 3 with vision": partial(
        tf.Gemma3Config, text_config=tf.Gemma3TextConfig(**SHORT), mm_tokens_per_image=4, image_token_index=5,
        boi_token_index=6, eoi_token_index=7, eos_token_id=2,
        vision_config=tf.SiglipVisionConfig(**VISION),
    ),
    "Qwen2-VL": partial(
        tf.Qwen2VLConfig, **QWEN_VL,
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 8},
    ),
    "Qwen2.5-VL": partial(
        tf.Qwen2_5_VLConfig, **QWEN_VL,
        vision_config={
            "depth": 1, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 16,
            "patch_size": 8,
        },
    ),
    "LLaVA": partial(
        tf.LlavaConfig, text_config=tf.LlamaConfig(**SIZES), image_token_index=5,
        vision_config=tf.CLIPVisionConfig(**VISION, projection_dim=16),
    ),
    "Idefics 3": partial(
        tf.Idefics3Config, text_config=tf.LlamaConfig(**SIZES), vision_config=VISION, image_token_id=5, scale_factor=2,
    ),
    "SmolVLM": partial(
        tf.SmolVLMConfig, text_config=tf.LlamaConfig(**SIZES), vision_config=VISION, image_token_id=5, scale_factor=2,
    ),
    "Mistral 3": partial(
        tf.Mistral3Config, text_config=tf.MistralConfig(**SHORT), image_token_index=5,
        vision_config=tf.PixtralVisionConfig(**VISION, head_dim=8), tie_word_embeddings=False,
    ),
    "Phi-3": partial(tf.Phi3Config, **{k: v for k, v in SIZES.items() if k != "head_dim"}),
    "SmolLM3": partial(tf.SmolLM3Config, **SIZES),
    "OLMo 2": partial(tf.Olmo2Config, **SIZES),
    "OLMo 3": partial(tf.Olmo3Config, **SHORT),
    "Granite": partial(tf.GraniteConfig, **SIZES, logits_scaling=4.0, embedding_multiplier=2.0),
    "StableLM": partial(tf.StableLmConfig, **{k: v for k, v in SIZES.items() if k != "head_dim"}),
    "GPT-2": partial(tf.GPT2Config, **IDS, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2),
    "GPT-NeoX": partial(tf.GPTNeoXConfig, **WHOLE),
    "OPT": partial(
        tf.OPTConfig, **IDS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, word_embed_proj_dim=32, init_std=0.2, dropout=0.0,
    ),
    "Bloom": partial(tf.BloomConfig, **IDS, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2),
    "Falcon": partial(
        tf.FalconConfig, **IDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2,
        parallel_attn=True, max_position_embeddings=512,
    ),
    "MPT": partial(tf.MptConfig, **IDS, d_model=32, n_heads=4, n_layers=2, max_seq_len=512, initializer_range=0.2),
    "Mixtral": partial(tf.MixtralConfig, **SIZES, num_local_experts=4),
    "Qwen3-MoE": partial(tf.Qwen3MoeConfig, **SIZES, **EXPERTS),
    "GPT-OSS": partial(tf.GptOssConfig, **SHORT, num_local_experts=4, num_experts_per_tok=2),
    "DeepSeek-V3": partial(
        tf.DeepseekV3Config, **WHOLE, num_key_value_heads=4, moe_intermediate_size=16,
        n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=16,
        q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    ),
    "Mamba": partial(tf.MambaConfig, **IDS, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.2),
    "Mamba-2": partial(
        tf.Mamba2Config, **IDS, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=1,
        chunk_size=16, initializer_range=0.2,
    ),
    "RWKV": partial(
        tf.RwkvConfig, **IDS, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, context_length=512,
    ),
    "T5": partial(tf.T5Config, **T5),
    "FLAN-T5": partial(tf.T5Config, **{**T5, "tie_word_embeddings": False}, feed_forward_proj="gated-gelu"),
    "UMT5": partial(tf.UMT5Config, **{**T5, "tie_word_embeddings": False}, feed_forward_proj="gated-gelu"),
    "mT5": partial(tf.MT5Config, **{**T5, "tie_word_embeddings": False}, feed_forward_proj="gated-gelu"),
    "BART": partial(tf.BartConfig, **BART, forced_eos_token_id=2),
    "mBART": partial(tf.MBartConfig, **BART, forced_eos_token_id=2),
}  # fmt: skip


def make(config: tf.PreTrainedConfig) -> tf.PreTrainedModel:
    """The model of a configuration, with weights drawn from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_kind(config).from_config(config).eval()


def save(config: tf.PreTrainedConfig, folder: Path) -> Path:
    """Write a model folder; an encoder-decoder's tokenizer ends every text with its end token."""
    tokenizer = random_tokenizer()
    if config.is_encoder_decoder:
        tokenizer.chat_template = None
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|end|>", special_tokens=[("<|end|>", 2)]
        )
    make(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
