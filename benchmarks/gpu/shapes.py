"""Shapes of published models, as arguments of transformers' configuration classes; the weights are random.

Source: the config.json of each model's page on the hub (meta-llama/Llama-3.2-1B, meta-llama/Llama-3.2-3B,
meta-llama/Llama-3.1-8B, Qwen/Qwen3-4B). The scaling of Llama's position angles is left out: it costs no time in a step.
`PARAMETERS` are the published numbers, to which the tests compare.
"""

from typing import Any

_LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "num_key_value_heads": 8,
}  # fmt: skip

SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": _LLAMA | {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "head_dim": 64, "tie_word_embeddings": True,
    },
    "Llama-3.2-3B": _LLAMA | {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "head_dim": 128, "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": _LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "head_dim": 128, "tie_word_embeddings": False,
    },
    "Qwen3-4B": {
        "model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    },
}  # fmt: skip

PARAMETERS = {
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen3-4B": 4_022_468_096,
}

#: What --tiny puts in their place; the family of the model stays.
TINY = {
    "vocab_size": 320, "max_position_embeddings": 2048, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
