"""Layouts of rows: conversations, ShareGPT, Alpaca; what is wrong with a row is one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.base import Example, Splits, digest
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.layouts import LAYOUTS

TALK = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "2 + 2?"), ("assistant", "4"))


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def sharegpt(*turns: tuple[str, Any]) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names.get(role, role), "value": text} for role, text in turns]}


def load(root: Path, *rows: Any, **options: Any) -> Splits:
    (root / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = UserTask(**{"name": "t", "metric": "rouge_l", "train": "a.jsonl", "test": "a.jsonl", **options})
    return UserTasks([task]).load(root, "t")


def one(root: Path, row: Any, **options: Any) -> Example:
    return load(root, row, **options).train[0]


@pytest.mark.parametrize(("layout", "write"), [("messages", messages), ("sharegpt", sharegpt)])
def test_the_last_turn_is_the_answer_and_the_others_are_the_prompt(tmp_path: Path, layout: str, write: Any) -> None:
    found = one(tmp_path, write(*TALK), layout=layout)
    assert found.turns == TALK[:-1]
    assert found.answer == "4"
    assert found.prompt == "Be kind.\n\nUser: Hi\nAssistant: Hello!\nUser: 2 + 2?\nAssistant:"
    assert (found.instruction, found.cue, found.every_turn) == (0, 0, False)


def test_a_single_message_is_a_plain_prompt(tmp_path: Path) -> None:
    output = one(tmp_path, messages(("user", "Hi"), ("assistant", "Hello!")), layout="messages")
    asked = one(tmp_path, {"q": "Hi", "a": "Hello!"}, prompt="{q}", answer="a")
    assert output == asked and output.turns == ()
    with_system = one(tmp_path, messages(*TALK[:3]), layout="messages")
    assert (with_system.prompt, with_system.turns) == ("Be kind.\n\nHi", TALK[:2])
    empty_system = one(tmp_path, messages(("system", ""), *TALK[1:3]), layout="messages")
    assert (empty_system.prompt, empty_system.turns) == ("Hi", ())


def test_a_field_of_another_name_and_parts_of_text(tmp_path: Path) -> None:
    row = {"chat": messages(("user", [{"type": "text", "text": part} for part in "Hi"]), TALK[2])["messages"]}
    assert one(tmp_path, row, layout="messages", turns="chat").prompt == "Hi"
    with pytest.raises(DataError, match=r"row 1 has no field 'messages'; valid: chat"):
        one(tmp_path, row, layout="messages")


def test_every_turn_is_trained_and_the_last_one_scored(tmp_path: Path) -> None:
    splits = load(tmp_path, messages(*TALK), layout="messages", loss_on="every")
    assert splits.train[0].every_turn and not splits.test[0].every_turn
    other = load(tmp_path, messages(*TALK), layout="messages").train
    assert digest(splits.train) != digest(other), "it is part of a run's identity"
    rows = [messages(("user", f"{i}"), TALK[2]) for i in range(20)]
    shared = load(tmp_path, *rows, layout="messages", loss_on="every", test=None, test_share=0.3)
    assert {e.every_turn for e in shared.train} == {True} and {e.every_turn for e in shared.test} == {False}


def test_turns_and_their_borders_are_part_of_the_data() -> None:
    one, other = (Example("1", "p", "a", turns=turns) for turns in ((("user", "ab"),), (("user", "a"), ("user", "b"))))
    assert len({digest([e]) for e in (one, other, Example("1", "p", "a"))}) == 3


def test_examples_come_back_from_what_is_stored() -> None:
    example = Example("1", "p", "a", ("a", "b"), turns=TALK[:2], every_turn=True)
    assert Example.restored(json.loads(json.dumps(vars(example)))) == example
    assert Example.restored({"id": "1", "prompt": "p", "answer": "a"}) == Example("1", "p", "a")


def test_alpaca(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    assert (found := one(tmp_path, row, layout="alpaca")).prompt == "Add.\n\n1 and 2"
    assert (found.answer, found.turns) == ("3", ())
    for empty in ({"instruction": "Add.", "output": "3"}, {**row, "input": ""}, {**row, "input": None}):
        assert one(tmp_path, empty, layout="alpaca").prompt == "Add."
    shown = one(tmp_path, row, layout="alpaca", prompt="### {instruction}\n{input}\n### Response:")
    assert shown.prompt == "### Add.\n1 and 2\n### Response:"
    assert (shown.instruction, shown.cue) == (4, 14)
    more = {**row, "system": "Be kind.", "history": [["Hi", "Hello!"]]}
    assert one(tmp_path, more, layout="alpaca").turns == (*TALK[:3], ("user", "Add.\n\n1 and 2"))
    assert one(tmp_path, {**row, "answers": ["3", "three"]}, layout="alpaca", answer="answers").references == (
        "3",
        "three",
    )
    assert one(tmp_path, {**row, "system": "", "history": None}, layout="alpaca").turns == ()


def test_labels_are_words_for_the_last_turn(tmp_path: Path) -> None:
    found = one(tmp_path, messages(("user", "Hi"), ("assistant", "1")), layout="messages", labels={1: "good"})
    assert found.answer == "good"
    with pytest.raises(DataError, match="row 1: 'messages' is '2', which labels does not list"):
        one(tmp_path, messages(("user", "Hi"), ("assistant", "2")), layout="messages", labels={1: "good"})


USER, GPT = ("user", "Hi"), ("assistant", "Hello!")


@pytest.mark.parametrize(
    ("layout", "row", "said"),
    [
        ("messages", {"messages": "Hi"}, "'messages' is text, expected a list of turns"),
        ("messages", {"messages": []}, "'messages' is empty, expected an assistant's turn at its end"),
        ("messages", {"messages": ["Hi"]}, ", turn 1 of 'messages' is text, expected an object with 'role'"),
        ("messages", {"messages": [{"role": "user"}]}, ", turn 1 of 'messages' has no field 'content'; .*valid: role"),
        ("messages", {"messages": [{"content": "a"}]}, ", turn 1 of 'messages' has no field 'role'"),
        ("messages", messages(("usr", "a")), "is by 'usr'; did you mean user"),
        ("messages", messages((None, "a")), "turn 1 of 'messages' is by null; valid: assistant, developer, system"),
        ("messages", messages(USER, ("tool", "a")), "turn 2 of 'messages' is by 'tool'; "),
        ("messages", messages(GPT), "turn 1 of 'messages' is by the assistant, expected the system or the user"),
        ("messages", messages(USER, USER), "turn 2 of 'messages' is by the user, expected the assistant"),
        ("messages", messages(USER, GPT, GPT), "turn 3 of 'messages' is by the assistant, expected the user"),
        ("messages", messages(USER, ("system", "a")), "turn 2 of 'messages' is by the system, expected the assistant"),
        ("messages", messages(USER), "'messages' ends with the user, expected an assistant's turn at its end"),
        ("messages", messages(("system", "a"), USER), "'messages' ends with the user"),
        ("messages", messages(("user", " "), GPT), "turn 1 of 'messages': 'content' is empty"),
        ("messages", messages(USER, ("assistant", "")), "turn 2 of 'messages': 'content' is empty"),
        ("messages", messages(USER, ("assistant", None)), "turn 2 of 'messages': 'content' is null, expected text"),
        ("messages", messages(("user", [{"type": "image_url", "image_url": {}}]), GPT), "a part of type 'image_url'; "),
        ("messages", messages(("user", ["a"]), GPT), "'content' has a part of type text; only parts of type 'text'"),
        ("messages", {"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}, "has calls of tools"),
        ("messages", {"messages": [{"role": "user", "content": "a", "function_call": {"name": "f"}}]}, "a function"),
        ("messages", {"messages": [{"role": "user", "content": "a", "thinking": "hm"}]}, "has a train of thought"),
        ("messages", {**messages(USER, GPT), "tools": [{"name": "f"}]}, "has tools .*, which cannot be trained on"),
        ("messages", {**messages(("system", "a"), USER, GPT), "system": "b"}, "has two system messages, in 'system'"),
        ("messages", {"messages": [{"role": "user", "content": "a"},
                                   {"role": "assistant", "content": "b", "weight": 0}]},
         "turn 2 of 'messages' has weight 0, but would be trained on; end with a turn of weight 1"),
        ("sharegpt", {"conversations": [{"from": "bot", "value": "a"}]}, "turn 1 of 'conversations' is by 'bot'; v"),
        ("sharegpt", sharegpt(USER), "'conversations' ends with the user"),
        ("alpaca", {"instruction": "", "input": " ", "output": "a"}, "'instruction' is empty"),
        ("alpaca", {"input": "", "output": "a"}, "has no field 'instruction'"),
        ("alpaca", {"instruction": "a"}, "has no field 'output'; .*valid: input, instruction"),
        ("alpaca", {"instruction": "a", "output": " "}, "'output' is empty"),
        ("alpaca", {"instruction": ["a"], "output": "b"}, "'instruction' is a list, expected text or a number"),
        ("alpaca", {"instruction": "a", "output": "b", "history": "c"}, "'history' is text, expected a list of pairs"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c"]]}, "item 1 of 'history' is not a pair"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c", ""]]}, "item 1 of 'history' has a blank, "),
        ("alpaca", {"instruction": "a", "output": "b", "system": {}}, "'system' is an object, expected text"),
    ],
)  # fmt: skip
def test_a_bad_row_is_one_line(tmp_path: Path, layout: str, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"a\.jsonl, row 1.*{said}") as caught:
        one(tmp_path, row, layout=layout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"'t': layout fields needs prompt; if its rows hold conversations, set layout to messages"),
        ({"prompt": "{a}"}, r"'t': layout fields needs answer; "),
        ({"layout": "chat"}, r"'t'\.layout: unknown layout 'chat'; .*valid: alpaca, fields, messages, sharegpt"),
        ({"layout": "messages", "prompt": "{a}"}, r"'t'\.prompt: has no effect on layout messages; leave it out"),
        ({"layout": "sharegpt", "answer": "a"}, r"'t'\.answer: has no effect on layout sharegpt"),
        ({"layout": "alpaca", "turns": "a"}, r"'t'\.turns: has no effect on layout alpaca"),
        ({"prompt": "{a}", "answer": "b", "loss_on": "every"}, r"'t'\.loss_on: has no effect on layout fields"),
        ({"layout": "alpaca", "prompt": "{"}, r"'t'\.prompt: .*braces"),
        ({"layout": "messages", "encoding": "latin-99"}, r"'t'\.encoding: no text encoding is called 'latin-99'"),
        ({"layout": "messages", "encoding": "hex"}, r"'t'\.encoding: no text encoding is called 'hex'"),
        ({"layout": "messages", "delimiter": ";;"}, r"'t'\.delimiter: ';;' must be one character"),
        ({"layout": "messages", "delimiter": '"'}, r"'t'\.delimiter: '\"' must be one character, and no quote"),
        ({"layout": "messages", "delimiter": ""}, r"'t'\.delimiter: '' must be one character"),
        ({"layout": "messages", "hub": "x", "encoding": "utf-8"}, r"'t'\.encoding: has no effect on a hub data set"),
    ],
)  # fmt: skip
def test_options_that_do_not_suit_the_layout_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        UserTasks([UserTask(**{"name": "t", "metric": "rouge_l", "train": "a.jsonl", "test": "a.jsonl", **options})])


def test_every_layout_is_tried_here() -> None:
    assert {*LAYOUTS} == {"fields", "messages", "sharegpt", "alpaca"}


def test_a_message_shows_names_of_the_data_on_one_line_and_short(tmp_path: Path) -> None:
    for name, shown in (("a\nb", "a\\nb"), ("x" * 99, f"{'x' * 57}...")):
        with pytest.raises(DataError, match=rf"has no field 'output'; .*valid: .*{re.escape(shown)}") as caught:
            one(tmp_path, {"instruction": "a", name: "b"}, layout="alpaca")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
def test_a_system_field_goes_before_the_turns(tmp_path: Path, layout: str) -> None:
    turns = (messages if layout == "messages" else sharegpt)(*TALK[1:3])
    assert one(tmp_path, {**turns, "system": "Be kind."}, layout=layout).turns == TALK[:2]
    assert one(tmp_path, {**turns, "system": " ", "tools": None}, layout=layout).turns == ()


def test_a_weight_of_0_is_heeded_or_refused(tmp_path: Path) -> None:
    listed = [{"role": role, "content": text, "weight": None} for role, text in TALK]
    listed[2]["weight"] = 0
    assert one(tmp_path, {"messages": listed}, layout="messages").answer == "4"
    with pytest.raises(DataError, match=r"turn 3 of 'messages' has weight 0, .*; give loss_on: last"):
        one(tmp_path, {"messages": listed}, layout="messages", loss_on="every")
