"""Conversations of several turns: which tokens carry a loss, what is cut, what gates read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.collate import IGNORE, training_batch
from cl_lightning.data.layouts.conversation import conversation
from cl_lightning.data.mix import NEW_ONLY
from cl_lightning.data.prompt import Encoded, PromptEncoder
from cl_lightning.data.sampler import StepSampler
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.likelihood import log_likelihoods
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from tests.commands.test_cli import configs, launch, record
from tests.data.test_chat import KINDS, MISTRAL, REFUSES, encoder

SPEC = TaskSpec("t", "rouge_l", 8)
TURNS = (
    ("user", "Hi there"),
    ("assistant", "Hello!"),
    ("user", " 2 + 2 = ?"),
    ("assistant", "It is 4.\nYes."),
    ("user", "And 3?"),
)


def example(*turns: tuple[str, str], every: bool = True, answer: str = "Six.") -> Example:
    asked = conversation(turns or TURNS, [answer])
    return Example("t/1", asked.prompt, answer, turns=asked.turns, every_turn=every)


def labelled(encoded: Encoded, **options: Any) -> tuple[list[int], list[int]]:
    """The ids of one row, and those of them that carry a loss."""
    batch = training_batch([encoded], pad_id=0, **options)
    mask = batch["labels"][0] != IGNORE
    assert torch.equal(batch["labels"][0][mask], batch["input_ids"][0][mask])
    return batch["input_ids"][0].tolist(), batch["input_ids"][0][mask].tolist()


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    return Backbone("smollm2-135m-instruct").load_tokenizer()


def by_hand(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], end: str
) -> tuple[list[int], list[int]]:
    """Ids and labelled ids of a ChatML conversation, taken apart by its text alone."""
    ids: list[int] = []
    trained: list[int] = []
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    start = end.replace("end", "start")
    for piece in re.split(rf"(?<={re.escape(start)}assistant\n)(.*?{re.escape(end)})", text, flags=re.DOTALL):
        spoken = piece.endswith(end) and not piece.startswith(start)
        parts = [piece.removesuffix(end), end] if spoken else [piece]
        new = [token for part in parts for token in tokenizer(part, add_special_tokens=False).input_ids]
        ids += new
        trained += new if spoken else []
    return ids, trained


@pytest.mark.parametrize("system", [(), (("system", "Be brief."),)])
@pytest.mark.parametrize("which", ["bytes", "words"])
def test_every_turn_of_the_assistant_and_its_end_carry_a_loss(
    words: PreTrainedTokenizerBase, which: str, system: tuple[tuple[str, str], ...]
) -> None:
    tokenizer, end = (random_tokenizer(), "<|end|>") if which == "bytes" else (words, "<|im_end|>")
    made = PromptEncoder(tokenizer, 500, "")
    turns = (*system, *TURNS)
    sent = [*([] if system else made.chat.system), *({"role": role, "content": text} for role, text in turns)]
    ids, trained = by_hand(tokenizer, [*sent, {"role": "assistant", "content": "Six."}], end)
    encoded = made.encode(example(*turns), SPEC)
    mine, loss = labelled(encoded)
    assert mine == ids[: len(mine)] and tokenizer.decode(ids[len(mine) :]).strip() == ""
    assert loss == trained
    assert encoded.labelled == len(trained)
    assert tokenizer.decode(trained) == f"Hello!{end}It is 4.\nYes.{end}Six.{end}"


def test_without_it_the_last_turn_alone_carries_a_loss(words: PreTrainedTokenizerBase) -> None:
    made = PromptEncoder(words, 500, "")
    every, last = (made.encode(example(every=every), SPEC) for every in (True, False))
    assert last.targets == () and last.labelled == len(last.answer_ids) < every.labelled
    assert (last.prompt_ids, last.answer_ids) == (every.prompt_ids, every.answer_ids)
    assert words.decode(labelled(last)[1]) == "Six.<|im_end|>"
    assert len(labelled(every, loss_on="full")[1]) == every.length
    labels = training_batch([every], 0, encoder_decoder=True)["labels"]
    assert labels.tolist() == [list(every.answer_ids)], "an encoder reads the turns before the answer"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "refuses"])
def test_turns_are_found_in_templates_of_every_kind(kind: str) -> None:
    template = KINDS[kind][0]
    made = encoder(template)
    encoded = made.encode(example(), SPEC)
    spoken = [made.tokenizer.decode(encoded.prompt_ids[a:b]) for a, b in encoded.targets]
    end = {"Llama 2": " <|end|>", "Llama 2 with its own": " <|end|>"}.get(kind, "<|end|>")
    assert spoken == [f"Hello!{end}", f"It is 4.\nYes.{end}"]


def test_the_gates_of_a_trained_turn_read_what_comes_before_it() -> None:
    made = encoder(KINDS["turns"][0])
    own = {every: made.encode(example(every=every), SPEC) for every in (True, False)}
    read = {every: made.tokenizer.decode(e.prompt_ids[e.own[0] : e.own[1]]) for every, e in own.items()}
    assert read[True] == "Hi there"
    assert read[False].startswith("Hi there<|end|>") and read[False].endswith("And 3?")
    batch = training_batch([own[True]], 0)
    first = int((batch["labels"][0] != IGNORE).nonzero()[0])
    assert not batch["own_mask"][0, first:].any()


def test_a_system_message_of_its_own_takes_the_place_of_the_options(words: PreTrainedTokenizerBase) -> None:
    made = PromptEncoder(words, 500, "From the options.")
    with_own, without = (made.encode(example(*system, *TURNS), SPEC) for system in ((("system", "Mine."),), ()))
    assert "<|im_start|>system\nMine.<|im_end|>" in words.decode(with_own.prompt_ids)
    assert "options" not in words.decode(with_own.prompt_ids)
    assert "From the options." in words.decode(without.prompt_ids)
    assert words.decode(with_own.prompt_ids[slice(*with_own.own)]).startswith("Hi there")


def test_control_tokens_spelled_out_in_a_turn_are_text() -> None:
    made = encoder(KINDS["turns"][0])
    turns = (("user", "a<|end|>b"), ("assistant", "c<|start|>d"), ("user", "e"))
    encoded = made.encode(example(*turns), SPEC)
    count = {token: encoded.prompt_ids.count(i) for i, token in ((1, "start"), (2, "end"))}
    assert count == {"start": 4, "end": 3}, "those of the template alone"
    assert made.tokenizer.decode(encoded.prompt_ids[slice(*encoded.targets[0])]) == "c<|start|>d<|end|>"


def test_a_long_conversation_loses_its_oldest_turns() -> None:
    turns = (("system", "Be kind."), *TURNS)
    whole = encoder(KINDS["turns"][0]).encode(example(*turns), SPEC)
    made = encoder(KINDS["turns"][0], budget=len(whole.prompt_ids) - 1)
    encoded = made.encode(example(*turns), SPEC)
    text = made.tokenizer.decode(encoded.prompt_ids)
    assert text.startswith("<|start|>system\nBe kind.<|end|>\n<|start|>user\n2 + 2 = ?<|end|>")
    assert encoded.cut == len(whole.prompt_ids) - len(encoded.prompt_ids)
    assert made.tokenizer.decode(labelled(encoded)[1]) == "It is 4.\nYes.<|end|>Six.<|end|>"
    assert encoded.example == example(*turns), "the example itself stays whole"


def test_the_last_message_alone_loses_its_middle() -> None:
    turns = (("system", "Be kind."), *TURNS[:2], ("user", "HEAD " + "x" * 200 + " TAIL"))
    made = encoder(KINDS["turns"][0], budget=100)
    encoded = made.encode(example(*turns), SPEC)
    text = made.tokenizer.decode(encoded.prompt_ids)
    assert len(encoded.prompt_ids) == 100 and encoded.targets == ()
    assert text.startswith("<|start|>system\nBe kind.<|end|>\n<|start|>user\nHEAD x")
    assert text.endswith("x TAIL<|end|>\n<|start|>assistant\n")
    with pytest.raises(ConfigError, match=r"max_prompt_tokens: 40 leaves no room for the prompt of t/1"):
        encoder(KINDS["turns"][0], budget=40).encode(example(*turns), SPEC)


def test_examples_encoded_together_are_those_encoded_alone(
    words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl_lightning.data.prompt.CHUNK", 16)
    plain = [Example(f"t/{i}", f"Number {i} <|im_end|> " * (i % 40), "x <|im_end|>") for i in range(1, 60)]
    mixed = [*plain, *(example(*TURNS[: 1 + 2 * (i % 3)], every=bool(i % 2)) for i in range(20))]
    for made in (PromptEncoder(words, 60, ""), encoder(MISTRAL, budget=200)):
        assert list(made.encode_all(mixed, SPEC)) == [made.encode(e, SPEC) for e in mixed]
    without = PromptEncoder(words, 60, "")
    without.chat = None
    assert list(without.encode_all(plain, SPEC)) == [without.encode(e, SPEC) for e in plain]


def test_the_step_counts_every_token_with_a_loss() -> None:
    made = encoder(KINDS["turns"][0])
    encoded = [made.encode(example(*TURNS[: 1 + 2 * i]), SPEC) for i in range(3)]
    sampler = StepSampler([e.length for e in encoded], [e.labelled for e in encoded], 0, 3, NEW_ONLY, (0,))
    (micro,) = sampler
    batch = training_batch([encoded[i] for i in micro.indices], 0)
    assert micro.step_tokens == int((batch["labels"] != IGNORE).sum())


@pytest.mark.parametrize(
    ("template", "turns", "said"),
    [
        (REFUSES, (("system", "Be kind."), ("user", "Hi")), "t/1: .*cannot write a conversation of system, user"),
        (KINDS["turns"][0].replace("in messages", "in messages[-1:]"), TURNS, "t/1: .*leaves out a turn of the user"),
        (KINDS["drops"][0], (("system", "Be kind."), ("user", "Hi")), "t/1: .*leaves out a turn of the system"),
        (KINDS["turns"][0].replace("| trim", "| upper"), TURNS, "changes or leaves out the text of the user in turn 1"),
        (
            KINDS["turns"][0].replace("m['content'] | trim", "m['content'].split('!')[-1]"),
            TURNS,
            "changes or leaves out the text of the assistant in turn 2",
        ),
    ],
)  # fmt: skip
def test_a_template_that_changes_a_turn_is_refused(template: str, turns: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        encoder(template).encode(example(*turns), SPEC)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_template_reads_the_turns_as_one_text() -> None:
    made = encoder(KINDS["turns"][0])
    made.chat = None
    encoded = made.encode(example(every=False), SPEC)
    assert made.tokenizer.decode([*encoded.prompt_ids, *encoded.answer_ids]) == (
        "User: Hi there\nAssistant: Hello!\nUser:  2 + 2 = ?\nAssistant: It is 4.\nYes.\nUser: And 3?\n"
        "Assistant: Six.<|end|>"
    )
    with pytest.raises(ConfigError, match=r"t/1: loss_on=every needs a chat template, .*; use last"):
        made.encode(example(), SPEC)


# ---- the loss, and whole runs ----------------------------------------------------------------------------


def test_the_loss_is_that_of_the_assistants_tokens(tiny: Callable[..., ContinualLM]) -> None:
    """In float64, against the model's own logits at places that the text alone tells."""
    module = tiny("float64")
    made = PromptEncoder(module.tokenizer, 500, "")
    rows = [made.encode(example(*TURNS[: 1 + 2 * i]), SPEC) for i in range(3)]
    batch = training_batch(rows, module.tokenizer.pad_token_id)
    batch |= {"step_tokens": 1, "weight": 1.0}
    found = module.sample_nll(batch)
    for row, value in zip(rows, found, strict=True):
        ids = torch.tensor([*row.prompt_ids, *row.answer_ids])
        scores = module.llm(input_ids=ids[None]).logits[0].log_softmax(-1)
        text, want, last = module.tokenizer.decode(ids), 0.0, 0.0
        for match in re.finditer(r"(?<=assistant\n)(.*?<\|end\|>)", text, re.DOTALL):
            # One token a character, save for control tokens: count those before.
            tokens = [len(module.tokenizer(text[:at], add_special_tokens=False).input_ids) for at in match.span()]
            last = -sum(float(scores[i - 1, ids[i]]) for i in range(*tokens))
            want += last
        assert value.item() == pytest.approx(want, rel=1e-12)
        if row.targets:
            assert want > last + 1, "the control: the last turn alone has another loss"
    (alone, _), *_ = log_likelihoods(module.llm, module.answer_logits, 0, rows[-1:], 4)
    assert -alone == pytest.approx(last, rel=1e-12), "a likelihood is that of the answer"


def test_conversations_are_trained_replayed_and_scored(tmp_path: Path) -> None:
    def talk(i: int, word: str) -> dict[str, Any]:
        turns = (("system", word), ("user", f"{i}?"), ("assistant", "Yes."), ("user", "Sure?"), ("assistant", word))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    tasks = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(talk(i, name))}\n" for i in range(24)))
        task = {"name": name, "train": f"{name}.jsonl", "test_share": 0.2, "layout": "messages", "loss_on": "every"}
        tasks.append({**task, "metric": "rouge_l", "max_new_tokens": 4})
    benchmark = {"class_path": "cl_lightning.data.UserTasks", "init_args": {"tasks": tasks}}
    config = {"data": {"benchmark": benchmark, "root": str(tmp_path), "order": None, "train_samples": 8}}
    (tmp_path / "own.yaml").write_text(json.dumps(config))
    result = launch(
        *configs("smoke"), f"--config={tmp_path / 'own.yaml'}", f"--sequence.run_dir={tmp_path / 'run'}",
        "--boundary.memory.train_ratio=0.25", "--data.test_samples=3",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert record(tmp_path / "run")["done"] == 2


def test_the_data_module_counts_every_token_with_a_loss(tmp_path: Path) -> None:
    talks = [(*TURNS, ("assistant", f"{i}")) for i in range(9)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = UserTask("t", "f1", "a.jsonl", "a.jsonl", layout="messages", loss_on="every")
    data = TaskSequence(UserTasks([task]), str(tmp_path), validation_samples=1, batch_size=4)
    data.prepare(random_tokenizer(), False)
    data.activate(0)
    for micro in data.sampler(0, 1, 1):
        batch = training_batch([data.tasks[0].train[i] for i in micro.indices], 0)
        assert micro.step_tokens == int((batch["labels"] != IGNORE).sum()) > 4 * 3
    with pytest.raises(ConfigError, match="t: loss_on=every needs a decoder; an encoder reads earlier turns"):
        data.prepare(random_tokenizer(), True)
