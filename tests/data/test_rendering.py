"""Rendered together, conversations have the texts of transformers; encoded in parts, the tokens of the whole."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.borders import Borders
from cl_lightning.data.chat import Message
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.data.rendering import render_all
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.random_llama import random_tokenizer
from tests.data.test_chat import KINDS, OWN, TURNS, tokenizer_with

TALK: list[list[Message]] = [
    [{"role": "user", "content": text}] for text in ("What?", "  two\nlines ", "long " * 40, "<|end|>", "{{ m }}", "x")
] + [
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": text},
    ]
    for text in ("c", "a\nd")
]
#: Templates that write more than what is around a text: each looks at the text, or keeps something while it writes.
HOSTILE = {
    "looks at the text": "{% if 'lines' in messages[0]['content'] %}Lines. {% endif %}" + TURNS,
    "counts": "{% for m in messages %}{{ m['content'] | length }}{{ m['content'] | upper }}{% endfor %}",
    "repeats": "{{ messages[0]['content'] * (messages | length) }}{{ messages | tojson }}",
    "remembers": "{{ 'Again. ' if seen is defined else '' }}{% set seen = true %}" + TURNS,
    "has a state": "{% set n = namespace(i=0) %}{% for m in messages %}{% set n.i = n.i + 1 %}{{ n.i }}{% endfor %}"
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ tools is none }}{{ documents is none }}{{ bos_token }}",
}


def by_itself(tokenizer: PreTrainedTokenizerBase, talk: list[list[Message]] = TALK) -> list[str]:
    return [tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in talk]


@pytest.mark.parametrize("template", [*(KINDS[kind][0] for kind in KINDS if kind != "needs one"), *HOSTILE.values()])
def test_texts_rendered_together_are_those_rendered_alone(template: str) -> None:
    tokenizer = tokenizer_with(template)
    assert render_all(tokenizer, TALK) == by_itself(tokenizer)


def test_the_control_one_context_for_all_is_noticed() -> None:
    tokenizer = tokenizer_with(HOSTILE["remembers"])
    template = _compile_jinja_template(tokenizer.get_chat_template())
    context = template.new_context(
        {**template.globals, "messages": TALK[0], "add_generation_prompt": True}, shared=True
    )
    texts = ["".join(template.root_render_func(context)) for _ in range(2)]
    assert texts[0] == by_itself(tokenizer)[0] != texts[1]


def test_a_tokenizer_with_a_way_of_its_own_renders_itself() -> None:
    tokenizer = tokenizer_with(TURNS)
    way = tokenizer.apply_chat_template

    def own(talk: Any, **options: Any) -> Any:
        return (
            [f"{text}!" for text in way(talk, **options)] if isinstance(talk[0], list) else f"{way(talk, **options)}!"
        )

    tokenizer.apply_chat_template = own
    assert render_all(tokenizer, TALK) == by_itself(tokenizer)
    assert render_all(tokenizer, TALK)[0].endswith("!")


# ---- tokens --------------------------------------------------------------------------------------------------

SPEC = TaskSpec("t", "accuracy", 4)


def changed(how: str) -> PreTrainedTokenizerBase:
    """A tokenizer with one step or token of which a part's tokens depend on what is beside it."""
    tokenizer = tokenizer_with(OWN.replace(" | trim", ""))
    backend = tokenizer.backend_tokenizer
    if how == "first":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace("x", "first"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif how == "replaces":
        backend.normalizer = normalizers.Replace(Regex("a+"), "b")  # of each piece alone
    elif how == "takes the blank":
        tokenizer.add_special_tokens({"eos_token": AddedToken("<|end|>", lstrip=True, special=True, normalized=False)})
    elif how == "longer":
        tokenizer.add_tokens([AddedToken("<|start|>user", normalized=False)])
    elif how == "overlaps":
        tokenizer.add_tokens([AddedToken("?<|", normalized=False)])
    return tokenizer


def parts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[tuple[list[int], list[int]]]:
    """The tokens of each prompt as they are encoded, and as the tokenizer encodes the whole text."""
    made = PromptEncoder(tokenizer, 10_000, None)
    examples = [Example(f"t/{i}", prompt, "x") for i, prompt in enumerate(prompts)]
    ours = [list(e.prompt_ids) for e in made.encode_all(examples, SPEC)]
    wholes = [tokenizer(made.chat.text(p), add_special_tokens=False).input_ids for p in prompts]
    return list(zip(ours, wholes, strict=True))


@pytest.mark.parametrize("how", ["", "first", "replaces", "takes the blank", "longer", "overlaps"])
def test_prompts_have_the_tokens_of_the_whole_text(how: str) -> None:
    for ours, whole in parts(changed(how), ["What?", "aaa b?", "  x\n", "\n\nWhich ?"]):
        assert ours == whole


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    return Backbone("smollm2-135m-instruct").load_tokenizer()


@settings(max_examples=25, deadline=None)
@given(text=st.text(min_size=1).filter(str.strip))
def test_they_do_in_the_embedded_model(words: PreTrainedTokenizerBase, text: str) -> None:
    for ours, whole in parts(words, [text, f"\n {text}", f"{text}\n"]):
        assert ours == whole


def test_what_stands_around_prompts_is_encoded_once(words: PreTrainedTokenizerBase, monkeypatch: Any) -> None:
    made, encoded = PromptEncoder(words, 10_000, None), []
    tokens = made._tokens
    monkeypatch.setattr(made, "_tokens", lambda texts, *a, **k: encoded.extend(texts) or tokens(texts, *a, **k))
    list(made.encode_all([Example(f"t/{i}", f"Say {i}.", "x") for i in range(9)], SPEC))
    assert sum("You are a helpful AI assistant" in text for text in encoded) == 1
    assert sum("Say" in text for text in encoded) == 9


@pytest.mark.parametrize(
    ("how", "borders"),
    [
        ("", {"<|start|>", "<|end|>", "<|pad|>"}),
        ("replaces", {"<|start|>", "<|end|>", "<|pad|>"}),
        ("first", set()),
        ("takes the blank", {"<|start|>", "<|pad|>"}),
        ("longer", {"<|end|>", "<|pad|>"}),
        ("overlaps", set()),
    ],
)
def test_no_text_is_cut_where_tokens_may_depend_on_both_sides(how: str, borders: set[str]) -> None:
    assert set(Borders(changed(how)).tokens) == borders


@pytest.mark.parametrize("how", ["first", "takes the blank", "longer", "overlaps"])
def test_the_control_cut_there_tokens_would_be_others(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_lightning.data.borders._is_local", lambda step: True)
    monkeypatch.setattr("cl_lightning.data.borders._stands_alone", lambda token, added: token.special)
    assert any(ours != whole for ours, whole in parts(changed(how), ["What?", "aaa b?", "  x\n", "\n\nWhich ?"]))


def test_without_a_control_token_nothing_is_cut() -> None:
    assert Borders(random_tokenizer()).cuts("no border") == ()
