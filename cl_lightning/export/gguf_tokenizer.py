"""Writes a byte-level BPE tokenizer to a GGUF file, which names the pre-tokenizer instead of describing it."""

import json
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from cl_lightning.common.errors import ConfigError
from cl_lightning.export.modelfile import TrainedPrompt

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
#: llama.cpp's name of a pre-tokenizer -> (its definition in tokenizers, `ignore_merges`).
SPLITS: dict[str, tuple[dict[str, Any], bool]] = {
    "gpt-2": (BYTES, False),
    "smollm": (
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
        False,
    ),
    "llama-bpe": (
        {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False},
                {**BYTES, "use_regex": False},
            ],
        },
        True,
    ),
}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their kinds by id, merges in order, and llama.cpp's name of the pre-tokenizer."""

    tokens: list[str]
    kinds: list[TokenType]
    merges: list[str]
    split: str


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Read a tokenizer's vocabulary for a model of `size` embeddings; ids without a token become padding tokens.

    Raises:
        ConfigError: the tokenizer is not a byte-level BPE, has a pre-tokenizer without a known name in llama.cpp, or
            has more tokens than the model has embeddings.
    """
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    model = whole["model"]
    how = (_bare(whole["pre_tokenizer"]), bool(model.get("ignore_merges")))
    split = next((name for name, known in SPLITS.items() if known == how), None)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    plain = model["type"] == "BPE" and not model.get("byte_fallback") and whole["normalizer"] is None
    if not plain or split is None or not merges:
        raise ConfigError(
            f"--format=gguf: this model's tokenizer ({type(tokenizer).__name__}, {model['type']}) is not supported; "
            "use --format=merged, then llama.cpp's convert_hf_to_gguf.py on that folder"
        )
    added = tokenizer.added_tokens_decoder
    vocabulary = {**{i: t for t, i in tokenizer.get_vocab().items()}, **{i: str(t) for i, t in added.items()}}
    if vocabulary and max(vocabulary) >= size:
        raise ConfigError(
            f"--format=gguf: the tokenizer has tokens up to {max(vocabulary)}, the model {size} embeddings; use "
            "--format=merged"
        )
    kinds = {i: TokenType.CONTROL if token.special else TokenType.USER_DEFINED for i, token in added.items()}
    every = range(size)
    return Vocabulary(
        [vocabulary.get(i, f"[PAD{i}]") for i in every],
        [kinds.get(i, TokenType.NORMAL if i in vocabulary else TokenType.UNUSED) for i in every],
        merges,
        split,
    )


def _bare(step: Any) -> Any:
    """Return a pre-tokenizer's definition without the options that do not affect how text is split."""
    if isinstance(step, dict):
        return {key: _bare(value) for key, value in step.items() if key != "trim_offsets"}
    return [_bare(part) for part in step] if isinstance(step, list) else step


def write_vocabulary(
    writer: GGUFWriter, vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase, prompt: TrainedPrompt
) -> None:
    """Add the vocabulary, the special tokens and the chat template to the file."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(prompt.bos)
    writer.add_add_eos_token(False)
    special = {
        writer.add_bos_token_id: tokenizer.bos_token_id,
        writer.add_eos_token_id: tokenizer.eos_token_id,
        writer.add_eot_token_id: prompt.end,
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: tokenizer.pad_token_id,
    }
    for add, token in special.items():
        if token is not None:
            add(token)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
