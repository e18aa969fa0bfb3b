"""System prompts that a template drops, replaces, needs or refuses: written as asked, or refused in one line."""

import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.end_tokens import trained_end
from tests.data.test_chat import CUE, NEEDS, OWN, TURN, TURNS, encoder, tokenizer_with

FIRST = "{% if messages[0]['role'] == 'system' %}"
USERS = "{% for m in messages if m['role'] != 'system' %}" + TURN + "{% endfor %}" + CUE
REPLACED = "{% if messages[0]['role'] != 'system' %}Be honest.\n{% endif %}" + USERS
HEADED = FIRST + "[SYS][/SYS]{% endif %}" + USERS
SHORT = FIRST + "{{ messages[0]['content'][:3] }}\n{% endif %}" + USERS
#: Its own text for an empty system message too.
FALSY = (
    "{% if messages[0]['role'] == 'system' and messages[0]['content'] %}{{ messages[0]['content'] }}{% else %}"
    "You are Bot.{% endif %}\n"
) + USERS
NEEDS_OR_OWN = (
    FIRST + "{{ messages[0]['content'] or 'You are Bot.' }}{% else %}{{ raise_exception('none') }}{% endif %}"
)
NEEDS_TEXT = (
    "{% if messages[0]['role'] != 'system' or not messages[0]['content'] %}{{ raise_exception('Say who it is') }}"
    "{% endif %}"
) + TURNS
NO_ANSWERS = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('No answers') }}{% endif %}"
NO_ANSWERS += TURN + "{% endfor %}" + CUE
SPEC = TaskSpec("t", "accuracy", 4)


@pytest.mark.parametrize("template", [REPLACED, HEADED, SHORT, "[A]" + HEADED])
def test_a_dropped_system_prompt_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.system_prompt: .* takes no system message; set .*='', or null"):
        encoder(template, "Be brief.")
    assert "honest" not in encoder(template, "").chat.text("What?")


@pytest.mark.parametrize("prompt", ["You are a helpful a.", "Be brief."])
def test_the_templates_own_words_can_be_given(prompt: str) -> None:
    assert encoder(OWN, prompt).chat.system == [{"role": "system", "content": prompt}]


@pytest.mark.parametrize("template", [FALSY, NEEDS_OR_OWN + USERS])
@pytest.mark.parametrize("prompt", ["", "  "])
def test_a_text_that_nothing_keeps_out_is_refused(template: str, prompt: str) -> None:
    template = template.replace("['content'] ", "['content'] | trim ")
    with pytest.raises(ConfigError, match=r"^data\.system_prompt: .* its own .*; set .* to a text of yours, or null"):
        encoder(template, prompt)
    assert "Bot" not in encoder(template, "Be brief.").chat.text("What?")


def test_null_keeps_what_nothing_keeps_out() -> None:
    assert "You are Bot." in encoder(FALSY, None).chat.text("What?")


@pytest.mark.parametrize("turn_end", ["<|end|>", "<|turn|>"])
def test_a_needed_system_prompt_is_given_where_the_end_is_sought(turn_end: str) -> None:
    tokenizer = tokenizer_with("")
    tokenizer.add_tokens(["<|turn|>"])
    template = NEEDS_TEXT.replace("<|end|>", turn_end)
    tokenizer.chat_template = template
    assert tokenizer.convert_ids_to_tokens(trained_end(tokenizer)) == turn_end
    made = encoder(template, "Be brief.")
    assert "Be brief." in made.tokenizer.decode(made.encode(Example("1", "What?", "x"), SPEC).prompt_ids)


def test_a_template_that_takes_no_answers_ends_with_the_tokenizers_token() -> None:
    for template in (NO_ANSWERS, "{% if messages[1:] %}{{ raise_exception('one only') }}{% endif %}" + TURNS):
        made = encoder(template)
        assert made.answer("x")[-1] == made.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("template", "prompt"), [(NEEDS, None), (NEEDS_TEXT, None), (NEEDS_TEXT, ""), (NEEDS_OR_OWN + USERS, None)]
)
def test_a_needed_system_prompt_is_asked_for(template: str, prompt: str | None) -> None:
    with pytest.raises(ConfigError, match=r"needs a system message \(\w.*\); set data\.system_prompt to a text$"):
        encoder(template, prompt)


def test_a_system_prompt_that_fails_says_why() -> None:
    picky = FIRST + "{% if 'brief' in messages[0]['content'] %}{{ raise_exception('Too short') }}{% endif %}{% endif %}"
    assert encoder(picky + TURNS, "Be kind.").chat.system
    with pytest.raises(ConfigError, match=r"^data\.system_prompt: .* takes no system message \(Too short\)"):
        encoder(picky + TURNS, "Be brief.")
