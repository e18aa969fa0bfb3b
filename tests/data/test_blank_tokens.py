"""Tokenizers whose tokens hold the blank before a word: which tokens are the task's own, and what a cut leaves."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example
from cl_lightning.data.prompt import PromptEncoder

TEMPLATE = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
WORDS = ("good", "film", "say")


def byte_level(trim: bool | None) -> Tokenizer:
    """GPT-2's kind; `trim` leaves blanks out of the offsets, None does without a post-processor."""
    tokenizer = _bpe(pre_tokenizers.ByteLevel.alphabet(), "Ġ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=bool(trim))
    tokenizer.decoder = decoders.ByteLevel()
    if trim is not None:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return tokenizer


def metaspace() -> Tokenizer:
    """Llama 2's and Mistral's kind."""
    tokenizer = _bpe([*"▁abcdefghijklmnopqrstuvwxyz[]/INST:.\n"], "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _bpe(letters: list[str], blank: str) -> Tokenizer:
    tokens, merges = ["<pad>", "<s>", "</s>", *sorted({*letters})], []
    for word in WORDS:
        grown = [f"{blank}{word}"[:length] for length in range(1, len(word) + 2)]
        merges += [(start, longer[-1]) for start, longer in pairwise(grown)]
        tokens += grown[1:]
    return Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges=merges))


KINDS = {
    "byte level": lambda: byte_level(None),
    "byte level, trimmed": lambda: byte_level(True),
    "byte level, whole": lambda: byte_level(False),
    "metaspace": metaspace,
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))


def encoder(made: Tokenizer, template: str | None = TEMPLATE) -> PromptEncoder:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer, 1000, None)


def written(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = "".join(tokenizer.convert_ids_to_tokens(ids))
    return text.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n")


@kinds
@pytest.mark.parametrize("template", [TEMPLATE, None])
@pytest.mark.parametrize("content", ["good", "good film", "film  good say", "x", "a good film."])
def test_the_tasks_own_tokens_begin_with_its_first_word(
    make: Callable[[], Tokenizer], template: str | None, content: str
) -> None:
    made = encoder(make(), template)
    ids, _, (start, end) = made.prompt(Example("1", content, "x"), 0.5)
    assert written(made.tokenizer, ids[start:end]).strip() == content
    if template:
        assert written(made.tokenizer, ids[:start]).strip() == "[INST]"
        assert written(made.tokenizer, ids[end:]).strip() == "[/INST]"


@kinds
@pytest.mark.parametrize("keep_head", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("instruction", "cue"), [("", ""), ("say ", " say"), ("say", "say"), ("say:\n", "\nsay"), ("say  ", "  say")]
)
def test_a_cut_leaves_all_around_the_context(
    make: Callable[[], Tokenizer], keep_head: float, instruction: str, cue: str
) -> None:
    made = encoder(make())
    whole = f"{instruction}goodxx good film good  film good film good{cue}"
    example = Example("1", whole, "x", instruction=len(instruction), cue=len(cue))
    full = len(made.prompt(example, keep_head)[0])
    for made.max_prompt_tokens in (full - 1, full - 2):
        ids, cut, (start, end) = made.prompt(example, keep_head)
        assert (len(ids), cut) == (made.max_prompt_tokens, full - made.max_prompt_tokens)
        text, own = written(made.tokenizer, ids), written(made.tokenizer, ids[start:end]).strip()
        assert text.strip().startswith(f"[INST] {instruction}")
        assert text.endswith(f"{cue} [/INST]")
        assert text.strip() == f"[INST] {own} [/INST]"


@kinds
def test_a_blank_prompt_has_no_tokens_of_its_own(make: Callable[[], Tokenizer]) -> None:
    made = encoder(make())
    ids, _, own = made.prompt(Example("1", " ", "x"), 0.5)
    assert own == (0, len(ids))


def test_a_text_without_tokens_is_refused() -> None:
    tokenizer = byte_level(False)
    tokenizer.normalizer = normalizers.Replace("~", "")
    encoder(tokenizer).prompt(Example("t/1", "~good", "x"), 0.5)
    with pytest.raises(ConfigError, match=r"^t/2: .* tokenizer makes no token of this text"):
        encoder(tokenizer).prompt(Example("t/2", "~~", "x"), 0.5)
