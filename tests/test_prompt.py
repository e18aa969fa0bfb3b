"""Prompts: template, label mask, middle cut."""

import pytest

from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.collate import IGNORE, training_batch
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.errors import ConfigError
from cl_lightning.random_model import random_tokenizer

SPEC = TaskSpec("t", "accuracy", 4)


def encoder(budget: int = 500, system: str | None = None, chat: bool = True) -> PromptEncoder:
    tokenizer = random_tokenizer()
    if not chat:
        tokenizer.chat_template = None
    return PromptEncoder(tokenizer, budget, system)


def test_the_chat_template_is_used_once_and_the_answer_ends_with_the_end_token() -> None:
    e = encoder()
    out = e.encode(Example("1", "Which one?", "B"), SPEC)
    assert e.tokenizer.decode(out.prompt_ids) == "<|start|>user\nWhich one?<|end|>\n<|start|>assistant\n"
    assert e.tokenizer.decode(out.answer_ids) == "B<|end|>"
    assert out.answer_ids[-1] == e.tokenizer.eos_token_id


def test_system_prompt() -> None:
    e = encoder(system="Be brief.")
    assert "<|start|>system\nBe brief.<|end|>" in e.tokenizer.decode(e.encode(Example("1", "x", "y"), SPEC).prompt_ids)


def test_without_a_template_a_blank_separates_cue_and_answer() -> None:
    e = encoder(chat=False)
    out = e.encode(Example("1", "Answer:", "7"), SPEC)
    assert e.tokenizer.decode([*out.prompt_ids, *out.answer_ids]) == "Answer: 7<|end|>"


@pytest.mark.parametrize("text", ["word " * 200, "文本很长。" * 80, "x"])
def test_labels_cover_exactly_answer_and_end_token(text: str) -> None:
    e = encoder(budget=120)
    rows = [e.encode(Example("1", text, "B 支持"), SPEC), e.encode(Example("2", "short", "longer answer"), SPEC)]
    batch = training_batch(rows, pad_id=e.tokenizer.pad_token_id)
    for i, row in enumerate(rows):
        labels = [int(x) for x in batch["labels"][i] if x != IGNORE]
        assert labels == list(row.answer_ids)
        assert batch["attention_mask"][i].sum() == row.length
        where = (batch["labels"][i] != IGNORE).nonzero().flatten()
        assert where[0] == len(row.prompt_ids)


def test_a_long_prompt_loses_its_middle_only() -> None:
    e = encoder(budget=150)
    prompt = "INSTRUCTION first. " + "middle " * 100 + " the cue:"
    out = e.encode(Example("1", prompt, "whole answer"), SPEC)
    text = e.tokenizer.decode(out.prompt_ids)
    assert len(out.prompt_ids) == 150
    assert text.startswith("<|start|>user\nINSTRUCTION first. ")
    assert text.endswith("the cue:<|end|>\n<|start|>assistant\n")
    assert out.cut > 0
    assert e.tokenizer.decode(out.answer_ids) == "whole answer<|end|>"


def test_keep_head_zero_keeps_the_end() -> None:
    e = encoder(budget=60)
    spec = TaskSpec("code", "edit_similarity", 4, keep_head=0.0)
    text = e.tokenizer.decode(e.encode(Example("1", "a" * 100 + "THE END", "x"), spec).prompt_ids)
    assert "THE END<|end|>" in text
    assert text.startswith("<|start|>user\na")


def test_content_equal_to_a_role_name_is_found() -> None:
    e = encoder(budget=41, system="user")
    out = e.encode(Example("1", "user" * 10, "x"), SPEC)
    text = e.tokenizer.decode(out.prompt_ids)
    assert text.startswith("<|start|>system\nuser<|end|>\n<|start|>user\n")
    assert text.endswith("<|end|>\n<|start|>assistant\n")


def test_a_budget_below_the_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_prompt_tokens: 20 leaves no room"):
        encoder(budget=20).encode(Example("1", "x" * 50, "y"), SPEC)
