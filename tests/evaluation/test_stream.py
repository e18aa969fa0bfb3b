"""Text that comes in pieces: whole words and characters only, nothing behind the end, joined it is the answer."""

import pytest
import torch

from cl_lightning.evaluation.stream import Pieces
from cl_lightning.model.random_llama import random_tokenizer


def pieces(text: str, ends: tuple[int, ...] = (2,), blank: str = "", then: str = "") -> list[str]:
    """What is handed on of a text, byte by byte, and of what is generated behind its end token."""
    tokenizer, found = random_tokenizer(), list[str]()
    stream = Pieces(tokenizer, found.append, ends, blank)
    stream.put(torch.tensor([[5, 6, 7]]))  # the prompt
    for token in [*tokenizer.encode(text), ends[0], *tokenizer.encode(then)]:
        stream.put(torch.tensor([token]))
    stream.end()
    return found


def test_words_come_one_by_one() -> None:
    assert pieces("one two\nthree") == ["one ", "two\n", "three"]


def test_characters_come_whole() -> None:
    assert pieces("日本 né") == ["日", "本", " ", "né"]
    assert pieces("🙂🙂") == ["🙂🙂"]


@pytest.mark.parametrize("text", ["", " ", "a", "  two blanks  ", "a\n\n b", "日本語の文", "né à\tô"])
def test_joined_they_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert "" not in pieces(text)


def test_the_blank_before_an_answer_is_left_out_once() -> None:
    assert pieces(" a  b", blank=" ") == ["a ", " ", "b"]


def test_nothing_comes_behind_an_end_token_though_it_be_no_special_one() -> None:
    letter = random_tokenizer().encode("z")[0]
    assert pieces("one two", ends=(letter,), then="more") == ["one ", "two"]
