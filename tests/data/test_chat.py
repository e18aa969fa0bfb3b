"""Chat templates of many kinds: which system message they get, where the prompt lies in them, which day they write."""

import datetime
import string

import pytest
import transformers.utils.chat_template_utils as templates
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.chat import DAY, ChatPrompt, fix, render
from cl_lightning.data.end_tokens import trained_end
from cl_lightning.data.placed import Placing
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.random_llama import random_tokenizer

CUE = "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
TURN = "<|start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|end|>\n"
TURNS = "{% for m in messages %}" + TURN + "{% endfor %}" + CUE
REFUSES = (  # Gemma 2's kind
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
) + TURNS
OWN = (  # SmolLM2's and Qwen2.5's
    "{% if messages[0]['role'] != 'system' %}<|start|>system\nYou are a helpful a.<|end|>\n{% endif %}"
) + TURNS
IN_USER_TURN = (  # Gemma 3's
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<|start|>{{ m['role'] }}\n{{ first if loop.first else '' }}{{ m['content'] | trim }}<|end|>\n{% endfor %}"
) + CUE
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ ((s if loop.first else '') + m['content']) | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2_OWN = LLAMA2.replace("{% set s = '' %}", "{% set s = '<<SYS>>\nBe honest.\n<</SYS>>\n\n' %}")
MISTRAL = (  # a default, and a day in it
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set s = 'Today is ' + strftime_now('%Y-%m-%d') %}{% set rest = messages %}{% endif %}"
    "{{ bos_token }}[SYSTEM_PROMPT]{{ s }}[/SYSTEM_PROMPT]{% for m in rest %}{% if m['role'] == 'user' %}"
    "[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
DATED = (  # Llama 3.2's: one system turn in any case, with the day
    "{% if date_string is not defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}{% if messages[0]['role'] == 'system' %}"
    "{% set s = messages[0]['content'] | trim %}{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "<|start|>system\nToday Date: {{ date_string }}\n\n{{ s }}<|end|>\n"
) + TURNS
NEEDS = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('Begin with a system message') }}{% endif %}"
) + TURNS
DROPS = "{% for m in messages if m['role'] != 'system' %}" + TURN + "{% endfor %}" + CUE
FALSY = "{% if messages[0]['content'] %}" + TURN.replace("m[", "messages[0][") + "{% endif %}"
#: "Be kind." or nothing where a system message is written; the user's text is "What?".
KINDS = {
    "turns": (TURNS, None),
    "refuses": (REFUSES, None),
    "own": (OWN, ""),
    "in the user's turn": (IN_USER_TURN, None),
    "Llama 2": (LLAMA2, None),
    "Llama 2 with its own": (LLAMA2_OWN, ""),
    "Mistral": (MISTRAL, ""),
    "dated": (DATED, None),
    "needs one": (NEEDS, ""),
    "drops": (DROPS, None),
}
SPEC = TaskSpec("t", "accuracy", 4)


def tokenizer_with(template: str) -> PreTrainedTokenizerBase:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def encoder(template: str, system: str | None = "", budget: int = 500, **options: object) -> PromptEncoder:
    return PromptEncoder(tokenizer_with(template), budget, system, **options)


def asked(template: str, *system: str, content: str = "What?") -> str:
    """What the template gives by itself."""
    messages = [*({"role": "system", "content": s} for s in system), {"role": "user", "content": content}]
    return tokenizer_with(template).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


# ---- the system message --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_system_prompt_is_none_or_an_empty_one_where_the_template_has_its_own(kind: str) -> None:
    template, sent = KINDS[kind]
    made = encoder(template)
    assert made.chat.system == ([] if sent is None else [{"role": "system", "content": sent}])
    if kind != "dated":
        assert made.chat.text("What?") == asked(template, *([] if sent is None else [sent]))
    for own in ("helpful", "honest", "Today is"):
        assert own not in made.chat.text("What?")
    ids, _, (start, end) = made.prompt(Example("1", "What?", "x"), 0.5)
    assert made.tokenizer.decode(ids[start:end]) == "What?"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"needs one", "dated", "Mistral"}))
def test_null_keeps_the_templates_default(kind: str) -> None:
    template = KINDS[kind][0]
    assert encoder(template, None).chat.text("What?") == asked(template)


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_prompt_is_written_or_refused(kind: str) -> None:
    template = KINDS[kind][0]
    if kind in ("refuses", "drops"):
        why = r" \(System role not supported\)" if kind == "refuses" else ""
        with pytest.raises(ConfigError, match=rf"data\.system_prompt: .* takes no system message{why}; set .*=''"):
            encoder(template, "Be kind.")
    else:
        assert "Be kind." in encoder(template, "Be kind.").chat.text("What?")


def test_the_embedded_model_reads_what_it_always_read() -> None:
    """Token ids as they were when "" always sent an empty message."""
    made = PromptEncoder(Backbone("smollm2-135m-instruct").load_tokenizer(), 200, "")
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "Is it good?"}]
    plain = Backbone("smollm2-135m-instruct").load_tokenizer()
    wanted = plain.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert made.prompt(Example("1", "Is it good?", "yes"), 0.5)[0] == wanted
    assert wanted != plain.apply_chat_template(messages[1:], add_generation_prompt=True, return_dict=False), "control"


# ---- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0]['content'] }", "unexpected '}'"),
        ("{{ raise_exception('never') }}", r"cannot write a conversation of user \(never\); correct the template"),
        ("{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}", "can only concatenate"),
        ("{{ messages[3]['content'].strip() }}", "has no element 3"),
        ("{% for m in messages %}<|start|>{{ m['role'] }}{% endfor %}", "omits the user's message"),
    ],
)  # fmt: skip
def test_a_template_that_fails_is_one_line(template: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        encoder(template)
    assert str(refused.value).startswith("model.backbone.name: ")
    assert "\n" not in str(refused.value)


def test_several_templates_without_a_default_are_refused_in_one_line() -> None:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = {"tool_use": TURNS, "rag": TURNS}
    with pytest.raises(ConfigError, match=r"several chat templates \(tool_use, rag\), none of them called default"):
        PromptEncoder(tokenizer, 500, "")
    tokenizer.chat_template = {"tool_use": "", "default": TURNS}
    assert PromptEncoder(tokenizer, 500, "").chat.text("What?") == asked(TURNS)


def test_a_template_that_looks_at_the_text_is_refused_by_example() -> None:
    template = "{% if 'magic' in messages[-1]['content'] %}SPELL {% endif %}" + TURNS
    made = encoder(template)
    made.prompt(Example("t/1", "plain", "x"), 0.5)
    with pytest.raises(ConfigError, match=r"^t/2: .* different text around this prompt than around others"):
        made.prompt(Example("t/2", "magic", "x"), 0.5)
    lost = encoder("{% for m in messages %}<|start|>{{ m['content'] | replace('secret', '') }}{% endfor %}")
    with pytest.raises(ConfigError, match=r"^t/3: .* omits this prompt"):
        lost.prompt(Example("t/3", "secret", "x"), 0.5)


# ---- where the prompt lies -----------------------------------------------------------------------------------

SHORT = ["a", "is", "assistant", "s", "user", "<|end|>", "start", "system", "helpful a", " a ", "\nuser\n", "[INST]"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", SHORT)
def test_a_prompt_that_is_part_of_the_template_is_found(kind: str, content: str) -> None:
    made = encoder(KINDS[kind][0])
    (placed,) = Placing(made.chat).all([Example("1", content, "x")])
    text, ((start, end),) = placed.text, placed.spans
    assert text[start:end] == content.strip()
    assert text[:start].rstrip() == made.chat.before.rstrip()
    if kind not in ("Llama 2", "Llama 2 with its own", "Mistral") and content in ("a", "is", "s"):
        assert text.rfind(content) > start, "negative control: the last such letters are the template's"


@given(
    parts=st.tuples(
        st.text("asi \n", max_size=20), st.text("asit \n", min_size=30, max_size=90), st.text("a\n", max_size=9)
    ),
    kind=st.sampled_from(sorted(KINDS)),
    keep_head=st.sampled_from([0.0, 0.4, 1.0]),
)  # fmt: skip
def test_the_middle_is_cut_out_of_the_prompt_alone(parts: tuple[str, str, str], kind: str, keep_head: float) -> None:
    instruction, _, cue = parts
    whole = "".join(parts)
    if not whole.strip():
        return
    example = Example("t/1", whole, "x", instruction=len(instruction), cue=len(cue))
    made = encoder(KINDS[kind][0], budget=10_000)
    full = made.tokenizer.decode(made.prompt(example, keep_head)[0])
    made.max_prompt_tokens = len(made.prompt(example, keep_head)[0]) - 9
    try:
        ids, cut, (start, end) = made.prompt(example, keep_head)
    except ConfigError as error:
        assert "leaves no room" in str(error)
        return
    text, kept = made.tokenizer.decode(ids), made.tokenizer.decode(ids[start:end])
    assert cut == 9
    assert text.startswith(made.chat.before.rstrip()) and text.endswith(made.chat.after.lstrip())
    assert kept.startswith(instruction.lstrip() if instruction.strip() else "")
    assert kept.endswith(cue.rstrip())
    assert len(kept) == len(whole.strip()) - 9
    assert any(full == text[:i] + full[i : i + 9] + text[i:] for i in range(len(text) + 1)), "one piece, nine tokens"


def test_a_changed_text_is_cut_where_letters_correspond_and_refused_where_not() -> None:
    flat = "{% for m in messages %}<|start|>{{ m['content'] | replace('\n', ' ') | upper }}<|end|>{% endfor %}"
    example = Example("t/1", "do\nit " + "x" * 40 + " say:", "x", instruction=6, cue=5)
    made = encoder(flat, budget=30)
    ids, cut, (start, end) = made.prompt(example, 0.5)
    kept = made.tokenizer.decode(ids[start:end])
    assert cut and kept.startswith("DO IT ") and kept.endswith(" SAY:")
    longer = flat.replace("replace('\n', ' ') | upper", "replace('x', '&x')")
    roomy = encoder(longer)
    ids, cut, (start, end) = roomy.prompt(example, 0.5)
    assert roomy.tokenizer.decode(ids[start:end]) == example.prompt.replace("x", "&x")
    roomy.max_prompt_tokens = 40
    with pytest.raises(ConfigError, match=r"cuts the prompt of t/1, but .* changes its text"):
        roomy.prompt(example, 0.5)


def test_a_blank_text_takes_no_place() -> None:
    for template, _ in KINDS.values():
        chat = encoder(template).chat
        (placed,) = Placing(chat).all([Example("1", " \n", "x")])
        assert placed.spans == ((len(chat.before),) * 2,) and len(chat.before) <= len(placed.text)


# ---- the day and other variables -----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type:
    """The clock that templates read; set `clock.today`."""

    class Clock(datetime.datetime):
        today = datetime.datetime(2031, 5, 9)

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.today

    monkeypatch.setattr(templates, "datetime", Clock)
    return Clock


EVERYWHERE = "{{ strftime_now('%A %d. %B %Y, %H:%M, week %V, %-d/%-m/%y, 100%%') | upper }} " + TURNS


@pytest.mark.parametrize("template", [DATED, MISTRAL, EVERYWHERE])
def test_the_day_is_fixed_for_every_rendering(template: str, clock: type) -> None:
    fixed, plain = encoder(template, None), tokenizer_with(template)
    chat = [{"role": "user", "content": "Is it good?"}, {"role": "assistant", "content": "yes"}]
    got, free = [], []
    for month in (5, 6):
        clock.today = datetime.datetime(2031, month, month + 4, 11, 30)
        got.append((fixed.encode(Example("1", "Is it good?", "yes"), SPEC), fixed.tokenizer.apply_chat_template(chat)))
        free.append(plain.apply_chat_template(chat, tokenize=False))
    assert fixed.chat.dated
    assert got[0] == got[1]
    assert free[0] != free[1], "negative control: the template by itself"


def test_the_day_is_written_as_strftime_writes_it(clock: type) -> None:
    clock.today = datetime.datetime(2025, 1, 5)
    for template in (DATED, MISTRAL, EVERYWHERE):
        assert encoder(template, None, day="2025-01-05").chat.text("What?") == asked(template)
    assert "TUESDAY 03. " in encoder(EVERYWHERE, None, day="2026-02-03").chat.text("What?")


def test_only_a_template_that_writes_the_day_is_dated() -> None:
    assert not encoder(TURNS).chat.dated
    assert not encoder(MISTRAL).chat.dated, "the day is in the default only"
    assert encoder(MISTRAL, None).chat.dated
    assert not encoder(DATED, variables={"date_string": "1 May 1900"}).chat.dated
    assert "Date: 1 May 1900" in encoder(DATED, variables={"date_string": "1 May 1900"}).chat.text("What?")
    assert "Date: 26 Jul 2024" in encoder(DATED).chat.text("What?")


FLAGS = ["", "-", "_", "0", "^", "#"]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_format_of_strftime_is_written(flag: str, clock: type) -> None:
    clock.today = datetime.datetime(2025, 2, 3)
    written = "|".join(f"%{flag}{letter}" for letter in string.ascii_letters.replace("s", ""))
    template = f"{{{{ strftime_now('{written} 100%%d %') }}}}" + TURNS
    assert encoder(template, None, day="2025-02-03").chat.text("What?") == asked(template)


@pytest.mark.parametrize(
    ("part", "condition"),
    [("%m", "< 6"), ("%m", "== 2"), ("%m", "== 11"), ("%y", "> 24"), ("%d", "< 9"), ("%j", "< 90"), ("%u", "== 5"),
     ("%u", "== 7"), ("%H", "> 5")],
)  # fmt: skip
def test_a_template_that_asks_for_a_part_of_the_date_is_dated(part: str, condition: str) -> None:
    template = f"{{% if strftime_now('{part}') | int {condition} %}}a{{% else %}}b{{% endif %}}" + TURNS
    assert encoder(template).chat.dated == (part != "%H"), "the time of day is no part of it"


@pytest.mark.parametrize(
    "beginning", ["", " ", "\n", "  {% if true %}x{% endif %}\n", "{#- a -#}  ", "{%- if true %} {% endif -%} "]
)
def test_what_is_fixed_leaves_the_rest_of_a_template_as_it_is(beginning: str) -> None:
    made = encoder(beginning + TURNS)
    assert made.chat.text("What?") == asked(beginning + TURNS)
    fix(made.tokenizer, "1999-01-01", {})
    fix(made.tokenizer, DAY, {})
    assert made.chat.text("What?") == asked(beginning + TURNS)


def test_variables_reach_every_rendering() -> None:
    thinking = TURNS + "{% if not (enable_thinking is defined and enable_thinking is false) %}<think>{% endif %}"
    assert encoder(thinking).chat.text("What?").endswith("<think>")
    fixed = encoder(thinking, variables={"enable_thinking": False})
    assert fixed.chat.text("What?") == asked(TURNS)
    assert "<think>" not in fixed.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    listed = "{% for t in tools or [] %}{{ t.name }} {{ t.text }}|{% endfor %}" + TURNS
    odd = {"name": "a'b\"c", "text": "{{ x }} %} é \n 文"}
    assert encoder(listed, variables={"tools": [odd]}).chat.text("What?") == (
        f"{odd['name']} {odd['text']}|" + asked(TURNS)
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"enable_thinkin": False}, "reads no variable 'enable_thinkin'"),
        ({"messages": []}, "'messages' cannot be given"),
        ({"a b": 1}, "'a b' cannot be given"),
        ({"role": {1, 2}}, r"data\.template_args\.role: .* quote it"),
        ({"role": float("nan")}, "nan is not text"),
    ],
)
def test_variables_are_checked(variables: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        encoder(TURNS, variables=variables)


def test_variables_without_a_template_are_refused() -> None:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"template_args: the model has no chat template"):
        PromptEncoder(tokenizer, 500, "", variables={"x": 1})


def test_a_system_prompt_without_a_template_is_refused() -> None:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"^data\.system_prompt: the model has no chat template to give it to; write"):
        PromptEncoder(tokenizer, 500, "Be kind.")
    for none in ("", " ", None):
        assert PromptEncoder(tokenizer, 500, none).chat is None


@pytest.mark.parametrize("day", ["20240726", "2024-7-26", "today", "2024-02-30", "", "2024-07-26T00:00"])
def test_a_faulty_day_is_refused(day: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.date: .* is not a date; write it as 2024-07-26"):
        encoder(TURNS, day=day)


def test_the_end_of_a_turn_is_found_in_all_kinds() -> None:
    for template, _ in KINDS.values():
        assert trained_end(tokenizer_with(template)) == 2
    assert render(tokenizer_with(TURNS), [{"role": "user", "content": "x"}]) == "<|start|>user\nx<|end|>\n"
    assert ChatPrompt(tokenizer_with(TURNS), None, DAY, {}).system == []
