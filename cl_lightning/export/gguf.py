"""`--format=gguf`: writes the merged model as one GGUF file for llama.cpp, and a Modelfile for Ollama.

Supports Llama models with a byte-level BPE tokenizer. Rotary embeddings pair neighbouring dimensions of a head in
llama.cpp and its two halves in transformers, so the rows of q and k are permuted. Vectors stay in float32.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from cl_lightning.common.errors import ConfigError
from cl_lightning.export.card import base_description, card
from cl_lightning.export.gguf_tokenizer import read_vocabulary, write_vocabulary
from cl_lightning.export.merged import merge
from cl_lightning.export.modelfile import TrainedPrompt, modelfile
from cl_lightning.export.trained import Request, Trained

FILE = "merged.gguf"
#: dtype -> (numpy's type of that size, GGUF's type of a matrix, GGUF's type of the file).
HELD = {
    "float32": (np.float32, GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (np.float16, GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (np.uint16, GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}


def export(request: Request, out: Path) -> list[str]:
    """Write merged.gguf, Modelfile and README.md.

    Raises:
        ConfigError: see `export.merged`; an architecture, tokenizer or dtype that is not supported.
    """
    trained = Trained(request)
    dtype = request.dtype or trained.module.backbone.dtype
    if dtype not in HELD:
        raise ConfigError(f"--dtype: the run's {dtype} is not supported by GGUF; choose one of {', '.join(HELD)}")
    llm, tokenizer, facts = merge(trained)
    check_architecture(llm)
    vocabulary = read_vocabulary(tokenizer, llm.config.vocab_size)
    prompt = TrainedPrompt(trained, llm, tokenizer)
    writer = GGUFWriter(None, "llama")
    writer.add_name(f"{trained.record['experiment']} {trained.name}")
    _write_config(writer, llm.config, HELD[dtype][2])
    write_vocabulary(writer, vocabulary, tokenizer, prompt)
    _write_tensors(writer, llm, out / FILE, dtype)
    (out / "Modelfile").write_bytes(modelfile(FILE, prompt))
    facts = [*facts, "not run with llama.cpp or Ollama here"]
    (out / "README.md").write_bytes(card(trained, "gguf", "a GGUF file", _how(), facts))
    return [*facts, *base_description(trained.module.backbone)]


def check_architecture(llm: PreTrainedModel) -> None:
    """Refuse models that are not supported. Raises ConfigError."""
    config = llm.config
    if config.model_type != "llama":
        refuse(f"models of type {config.model_type}")
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope != "default":
        refuse(f"position angles of type {rope}")
    if config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
        refuse(f"Llamas with biases or with another activation than silu ({config.hidden_act})")


def refuse(what: str) -> NoReturn:
    """Say what is not supported, and what to do. Raises ConfigError."""
    raise ConfigError(
        f"--format=gguf: {what} are not supported; use --format=merged, then llama.cpp's "
        "convert_hf_to_gguf.py on that folder"
    )


def _write_config(writer: GGUFWriter, config: PreTrainedConfig, kind: LlamaFileType) -> None:
    heads, size = config.num_attention_heads, _head_size(config)
    writer.add_file_type(kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _head_size(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _write_tensors(writer: GGUFWriter, llm: PreTrainedModel, path: Path, dtype: str) -> None:
    """Write the descriptions of all tensors, then the tensors one by one, so that only one is copied at a time."""
    for name, tensor in _named(llm):
        kind, quantised, _ = HELD[dtype if tensor.dim() > 1 else "float32"]
        size = np.dtype(kind).itemsize * tensor.numel()
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(kind), size, quantised)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in _named(llm):
        quantised = HELD[dtype if tensor.dim() > 1 else "float32"][1]
        writer.write_tensor_data(gguf.quantize(_ordered(name, tensor, llm.config).float().numpy(), quantised))
    writer.close()


def _named(llm: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the model's tensors by their names in GGUF; a tied output head is left out."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, llm.config.num_hidden_layers)
    tied = llm.get_output_embeddings().weight is llm.get_input_embeddings().weight
    for key, tensor in llm.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        name = names.get_name(key, try_suffixes=(".weight",))
        if name is None:
            refuse(f"models with {key}")
        yield name, tensor.detach()


def _ordered(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    return tensor if heads is None else neighbours(tensor, heads)


def neighbours(matrix: Tensor, heads: int) -> Tensor:
    """Permute the rows of q or k to llama.cpp's order: row i of a head's first half, then row i of its second."""
    halves = matrix.reshape(heads, 2, -1, matrix.shape[1])
    return torch.stack((halves[:, 0], halves[:, 1]), dim=2).reshape(matrix.shape)


def _how() -> list[str]:
    return [
        "```sh",
        f"llama-server -m {FILE}",
        "ollama create NAME -f Modelfile",
        "```",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER", gguf_file="{FILE}")',
        f'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER", gguf_file="{FILE}")',
        "```",
    ]
