"""Prompts: template, label mask, middle cut."""

import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

import cl_lightning.data
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example, Splits, TaskSpec, digest
from cl_lightning.data.benchmarks import trace
from cl_lightning.data.benchmarks.superni import SuperNI
from cl_lightning.data.collate import IGNORE, training_batch
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.data.prompt_parts import mark_parts
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.random_llama import random_tokenizer
from tests.conftest import ROOT, SHARED

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
    with pytest.raises(
        ConfigError, match=r"max_prompt_tokens: 20 leaves no room for the prompt of t/7: .* 19 tokens; give 23"
    ):
        encoder(budget=20).encode(Example("t/7", "x" * 50, "y"), SPEC)


# --- instruction and cue ------------------------------------


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    """A tokenizer whose tokens are pieces of words and reach over the borders of instruction and cue."""
    return Backbone("smollm2-135m-instruct").load_tokenizer()


def cut(made: PromptEncoder, example: Example, keep_head: float) -> str:
    """The content of the cut prompt."""
    out = made.encode(example, TaskSpec("t", "accuracy", 4, keep_head))
    assert len(out.prompt_ids) <= made.max_prompt_tokens
    text = made.tokenizer.decode(out.prompt_ids)
    if not made.chat:
        return text
    before, after = made.chat.before, made.chat.after
    assert text.startswith(before)
    assert text.endswith(after)
    return text.removeprefix(before).removesuffix(after)


TEXTS = st.text("ab :\n,.文ü", max_size=60)


@settings(deadline=None)
@given(
    parts=st.tuples(TEXTS, st.text("cd \n文", min_size=1, max_size=120), TEXTS),
    keep_head=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    room=st.integers(0, 40),
    chat=st.booleans(),
)
def test_a_cut_leaves_instruction_and_cue_whole(
    words: PreTrainedTokenizerBase, parts: tuple[str, str, str], keep_head: float, room: int, chat: bool
) -> None:
    instruction, _, cue = parts
    example = Example("t/1", "".join(parts), "x", instruction=len(instruction), cue=len(cue))
    for tokenizer in (words, random_tokenizer()):
        made = PromptEncoder(tokenizer, 0, "")
        made.chat = made.chat if chat else None
        with pytest.raises(ConfigError) as refused:
            cut(made, example, keep_head)
        least = int(re.search(r"give (\d+) or more", str(refused.value))[1])
        made.max_prompt_tokens = least + room
        text = cut(made, example, keep_head)
        assert text.startswith(instruction)
        assert text.endswith(cue)


def test_a_cut_by_shares_alone_reaches_into_the_instruction(words: PreTrainedTokenizerBase) -> None:
    """What the marks are for: without them the same prompt loses the end of its long instruction."""
    instruction, cue = "Say in one word what the study below found. " * 20, "\nOutput: "
    unmarked = Example("t/1", f"{instruction}{'It found much. ' * 60}{cue}", "x")
    made = PromptEncoder(words, 260, "")
    for keep_head in (0.0, 0.5):
        assert not cut(made, unmarked, keep_head).startswith(instruction)
    assert not cut(made, unmarked, 1.0).endswith(cue)
    marked = replace(unmarked, instruction=len(instruction), cue=len(cue))
    for keep_head in (0.0, 0.5, 1.0):
        text = cut(made, marked, keep_head)
        assert text.startswith(instruction)
        assert text.endswith(cue)


def test_the_share_divides_what_stays_between() -> None:
    example = Example("t/1", "HEAD" + "a" * 50 + "b" * 50 + "CUE", "x", instruction=4, cue=3)
    made = encoder(budget=47, chat=False)
    assert [cut(made, example, share) for share in (0.0, 0.25, 1.0)] == [
        "HEAD" + "b" * 40 + "CUE",
        "HEAD" + "a" * 10 + "b" * 30 + "CUE",
        "HEAD" + "a" * 40 + "CUE",
    ]


def test_marks_are_no_part_of_the_data() -> None:
    example = Example("t/1", "a b c", "x")
    assert digest([replace(example, instruction=2, cue=1)]) == digest([example])


def test_lines_that_all_prompts_share_are_instruction_and_cue() -> None:
    def splits(*prompts: str) -> Splits:
        return Splits(tuple(Example(str(i), p, "x") for i, p in enumerate(prompts)), (Example("t", "other", "x"),))

    def marks(found: Splits) -> set[tuple[str, str]]:
        return {(e.prompt[: e.instruction], e.prompt[len(e.prompt) - e.cue :]) for e in found.train}

    asked = mark_parts(splits("Do it.\nText: ab\ncd\nAnswer:", "Do it.\nText: ac\ned\nAnswer:"))
    assert marks(asked) == {("Do it.\n", "\nAnswer:")}
    assert (asked.test[0].instruction, asked.test[0].cue) == (0, 0)
    odd = [f"Do it.\nText: {i}\nAnswer:" for i in range(19)] + ["Something else"]
    assert marks(mark_parts(splits(*odd))) == {("Do it.\n", "\nAnswer:"), ("", "")}, "one odd prompt is one"
    assert marks(mark_parts(splits(*odd[15:]))) == {("", "")}, "one of five is no exception"
    assert marks(mark_parts(splits("<s> a <EOL>", "<s> b <EOL>"))) == {("", "")}
    assert marks(mark_parts(splits("A\nb\nC", "A\nb\nC"))) == {("", "")}, "one prompt alone tells nothing"
    assert marks(mark_parts(splits("A\nA", "A\nA\nA"))) == {("A\n", "")}, "no line is both"


REAL = SHARED / "data"


@pytest.mark.skipif(not (REAL / "superni").is_dir(), reason="no Super-NI files beside this checkout")
def test_no_real_prompt_loses_its_definition(words: PreTrainedTokenizerBase) -> None:
    """At 256 tokens, shares alone cut into the definition of 41 of these 381."""
    splits = SuperNI().load(REAL, "task181_outcome_extraction")
    made = PromptEncoder(words, 256, "")
    lost = {"shares": 0, "marks": 0}
    for example in (*splits.train, *splits.test):
        for name, one in {"shares": replace(example, instruction=0, cue=0), "marks": example}.items():
            text, prompt = cut(made, one, 0.5), example.prompt
            kept = text.startswith(prompt[: example.instruction]) and text.endswith(prompt[-example.cue :])
            lost[name] += not kept
    assert lost == {"shares": 41, "marks": 0}


@pytest.mark.skipif(not (REAL / "trace").is_dir(), reason="no TRACE files beside this checkout")
def test_what_is_instruction_and_cue_in_trace() -> None:
    splits = {name: trace.load(REAL, name) for name in trace.TASKS}
    assert {n: {(e.instruction, e.cue) for e in (*s.train, *s.test)} for n, s in splits.items()} == {
        "C-STANCE": {(49, 4)}, "FOMC": {(128, 8)}, "MeetingBank": {(75, 9)}, "Py150": {(0, 0)}, "ScienceQA": {(78, 9)},
        "NumGLUE-cm": {(44, 8)}, "NumGLUE-ds": {(44, 8)}, "20Minuten": {(79, 17)},
    }  # fmt: skip


@pytest.mark.skipif(not (REAL / "superni").is_dir(), reason="no benchmark files beside this checkout")
def test_no_shipped_experiment_is_refused_on_the_published_files(words: PreTrainedTokenizerBase) -> None:
    """Whatever the length of what stands between, instruction and cue of every task find room."""
    base = yaml.safe_load((ROOT / "experiments/_base.yaml").read_text())["data"]
    settings = set()
    for path in (ROOT / "experiments").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        data = {**base, **config.get("data", {})}
        bytewise = "random-llama" in str(config.get("model"))
        names = tuple(data["order"]) if bytewise else ()
        settings.add((data["benchmark"]["class_path"], data["max_prompt_tokens"], data["system_prompt"], names))
    assert len(settings) >= 6
    for benchmark, budget, system, names in settings:
        kind = getattr(cl_lightning.data, benchmark.rpartition(".")[2])()
        made = PromptEncoder(random_tokenizer() if names else words, budget, system)
        for name in names or kind.default_order(REAL):
            if not any(path.exists() for path in kind.places(REAL, name) or [REAL]) or name == "Lima":
                continue
            splits = kind.load(REAL, name)
            edges = {
                (e.prompt[: e.instruction], e.prompt[len(e.prompt) - e.cue :]) for e in (*splits.train, *splits.test)
            }
            for instruction, cue in edges:
                long = Example(name, f"{instruction}{'words ' * 2000}{cue}", "x", (), len(instruction), len(cue))
                assert made.encode(long, SPEC).cut
