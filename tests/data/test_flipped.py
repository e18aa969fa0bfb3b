"""Twins of a classification task: what is changed, what stays, what no twin can be made of."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.base import Example, Splits
from cl_lightning.data.benchmarks.flipped import NEW_ANSWERS, Flipped
from cl_lightning.data.benchmarks.superni import SuperNI
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.data.sample import tasks as sample
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.metrics.registry import METRICS
from cl_lightning.model.random_llama import random_tokenizer
from tests.commands.test_cli import configs, launch
from tests.conftest import SHARED

FOMC = sample.load("FOMC")


def pair(flipped: Flipped, root: Path | None = None) -> tuple[Splits, Splits]:
    return flipped.load(root, flipped.task), flipped.load(root, flipped.twin)


def write(root: Path, train: list[tuple[str, str]], test: list[tuple[str, str]]) -> Path:
    """A folder of one task, Own, in TRACE's layout."""
    (root / "Own").mkdir()
    for split, rows in {"train": train, "test": test}.items():
        records = [{"prompt": prompt, "answer": answer} for prompt, answer in rows]
        (root / "Own" / f"{split}.json").write_text(json.dumps(records))
    return root


def test_a_label_flip_is_the_same_prompts_with_no_label_in_its_place() -> None:
    original, twin = pair(Flipped())
    assert original == FOMC
    for before, after in zip((*original.train, *original.test), (*twin.train, *twin.test), strict=True):
        assert after.prompt == before.prompt
        assert after.answer == {"A": "B", "B": "C", "C": "A"}[before.answer]
    assert twin.train[0].id.startswith("FOMC-flipped/train/")
    assert len({e.id for e in twin.train}) == len(twin.train)


@pytest.mark.parametrize(
    ("options", "answers"),
    [
        ({"kind": "numbers"}, {"A": "1", "B": "2", "C": "3"}),
        ({"kind": "lower"}, {"A": "a", "B": "b", "C": "c"}),
        ({"kind": "words", "words": {"C": "hold", "A": "cut", "B": "raise"}}, {"A": "cut", "B": "raise", "C": "hold"}),
        ({"task": "Sentiment", "kind": "letters"}, {"negative": "A", "positive": "B"}),
        ({"task": "Sentiment", "kind": "upper"}, {"negative": "NEGATIVE", "positive": "POSITIVE"}),
        ({"task": "Sentiment"}, {"negative": "positive", "positive": "negative"}),
    ],
)
def test_a_format_flip_writes_every_label_in_another_way(options: dict, answers: dict[str, str]) -> None:
    original, twin = pair(Flipped(**options))
    assert {(a.answer, b.answer) for a, b in zip(original.train, twin.train, strict=True)} == set(answers.items())
    assert [e.prompt for e in twin.test] == [e.prompt for e in original.test]


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_an_instruction_says_what_to_answer_instead(kind: str) -> None:
    flipped = Flipped(kind=kind, instructed=True)
    original, twin = pair(flipped)
    first, second, third = NEW_ANSWERS[kind](["A", "B", "C"])
    line = f"In this task answer {first} instead of A, {second} instead of B, {third} instead of C.\n"
    assert [e.prompt for e in twin.train] == [line + e.prompt for e in original.train]
    assert original == FOMC, "the original is asked as ever"
    specs = flipped.tasks(None)
    assert specs[flipped.twin].name == flipped.twin == f"FOMC-{'flipped' if kind == 'labels' else kind}-instructed"


def test_the_instruction_outlives_a_cut_in_the_middle() -> None:
    for instructed in (True, False):
        flipped = Flipped(instructed=instructed)
        original, twin = pair(flipped)
        for one, other in zip(original.train, twin.train, strict=True):
            output = len(other.prompt) - len(one.prompt)
            assert (other.instruction, other.cue) == (output + one.instruction, one.cue)
            assert one.instruction > 0
            assert one.cue > 0
        encoder = PromptEncoder(random_tokenizer(), 300, None)
        for example in twin.test:
            kept = encoder.tokenizer.decode(encoder.encode(example, flipped.tasks(None)[flipped.twin]).prompt_ids)
            assert example.prompt[: example.instruction] in kept


def test_the_pair_is_scored_alike_by_exact_match() -> None:
    specs = Flipped(SuperNI(), "Sentiment", "upper").tasks(None)
    assert {specs[name].metric for name in ("Sentiment", "Sentiment-upper")} == {"accuracy"}
    assert specs["MeetingBank"].metric == "rouge_l"


def test_no_test_prompt_of_one_is_trained_on_in_the_other(tmp_path: Path) -> None:
    train = [(f"p{i}", "xy"[i % 2]) for i in range(10)]
    root = write(tmp_path, train, [("p3\n", "y"), ("p4", "x"), ("q", "x")])
    for instructed in (False, True):
        original, twin = pair(Flipped(task="Own", instructed=instructed), root)
        assert [e.prompt for e in original.train] == [f"p{i}" for i in (0, 1, 2, 5, 6, 7, 8, 9)]
        assert [e.id.rpartition("/")[2] for e in original.train] == [e.id.rpartition("/")[2] for e in twin.train]
        assert len(original.test) == len(twin.test) == 3
        assert (original.leaked, twin.leaked) == (2, 2)
    leaking = tmp_path / "leaking"
    leaking.mkdir()
    with pytest.raises(DataError, match="every training prompt is a test prompt too"):
        Flipped(task="Own").load(write(leaking, [("p", "x"), ("q", "y")], [("p", "x"), ("q", "y")]), "Own")


def test_a_run_says_how_many_leaking_prompts_were_left_out(tmp_path: Path) -> None:
    train = [(f"p{i}", "xy"[i % 2]) for i in range(10)]
    root = write(tmp_path, train, [("p3\n", "y"), ("p4", "x"), ("q", "x")])
    nested = Flipped(Flipped(task="Own"), "Own", "upper")
    for benchmark, names in ((Flipped(task="Own"), ("Own", "Own-flipped")), (nested, ("Own", "Own-upper"))):
        data = TaskSequence(benchmark, root=str(root), validation_samples=0)
        data.prepare(random_tokenizer(), False)
        assert data.source == f"TRACE files, left out: {names[0]} 2 leaked, {names[1]} 2 leaked"
        cleaned = TaskSequence(benchmark, root=str(root), validation_samples=0, drop_leaks=True)
        cleaned.prepare(random_tokenizer(), False)
        assert cleaned.source == f"TRACE files, cleaned (left out: {names[0]} 2 leaked, {names[1]} 2 leaked)"
    whole = TaskSequence(Flipped())
    whole.prepare(random_tokenizer(), False)
    assert whole.source == "built-in sample, NOT TRACE", "nothing was left out"


def test_flips_nest() -> None:
    inner = Flipped(task="C-STANCE", kind="numbers")
    both = Flipped(Flipped(inner, "FOMC"), "FOMC", "lower", instructed=True)
    assert set(both.tasks(None)) - set(sample.TASKS) == {"C-STANCE-numbers", "FOMC-flipped", "FOMC-lower-instructed"}
    assert both.load(None, "C-STANCE-numbers").train[0].answer in {"1", "2", "3"}
    assert both.load(None, "FOMC-flipped") == Flipped().load(None, "FOMC-flipped")
    assert both.default_order(None) == ["FOMC", "FOMC-lower-instructed"]
    assert both.load(None, "Py150") == sample.load("Py150")


def test_the_pair_trains_and_scores_through_the_data_module() -> None:
    data = TaskSequence(Flipped(kind="words", words={"A": "cut", "B": "raise", "C": "keep as it is"}), train_samples=6)
    data.prepare(random_tokenizer(), False)
    assert data.order == ["FOMC", "FOMC-words"]
    longest = max(len(e.answer_ids) for e in data.tasks[1].test)
    assert longest <= data.tasks[1].spec.max_new_tokens, "a byte-wise tokenizer has room for it, too"
    assert Flipped().published_epochs()["FOMC-flipped"] == 3


def test_the_twin_lies_where_its_original_does(tmp_path: Path) -> None:
    rows = [(f"p{i}", "xy"[i % 2]) for i in range(8)]
    root, flipped = write(tmp_path, rows, [("q", "x"), ("r", "y")]), Flipped(task="Own", instructed=True)
    assert flipped.places(None, flipped.twin) == ()
    assert root / "Own" in flipped.places(root, flipped.twin) == flipped.places(root, "Own")
    assert root / "FOMC" in flipped.places(root, "FOMC")
    assert Flipped(flipped, "Own", "upper").places(root, flipped.twin) == flipped.places(root, "Own")
    (root / "Own" / "eval.json").write_text(json.dumps([{"prompt": "q", "answer": "x"}]))
    assert [(e.prompt, e.answer) for e in flipped.development(root, "Own")] == [("q", "x")]
    (twin,) = flipped.development(root, flipped.twin)
    assert (twin.id, twin.answer) == ("Own-flipped-instructed/eval/0", "y")
    assert twin.prompt == flipped.load(root, flipped.twin).test[0].prompt
    (root / "Own" / "eval.json").write_text(json.dumps([{"prompt": "q", "answer": "z"}]))
    with pytest.raises(DataError, match="Own: its development split has answers that train lacks, such as 'z'"):
        flipped.development(root, flipped.twin)


def test_absent_data_of_the_pair_is_reported_or_left_out(tmp_path: Path) -> None:
    rows = [(f"p{i}", "xy"[i % 2]) for i in range(8)]
    options = {"root": str(write(tmp_path, rows, [("q", "x")])), "order": ["Own", "FOMC", "FOMC-flipped"]}
    with pytest.raises(ConfigError, match=r"no data for FOMC, FOMC-flipped: looked for .*/trace/FOMC"):
        TaskSequence(Flipped(), **options)
    assert TaskSequence(Flipped(), **options, skip_missing=True).order == ["Own"]


def test_blank_training_answers_stay_counted() -> None:
    class Blank(SuperNI):
        def load(self, root: Path | None, name: str) -> Splits:
            return replace(super().load(root, name), blank=3)

    assert [splits.blank for splits in pair(Flipped(Blank(), "Sentiment"))] == [3, 3]


def test_official_metrics_are_the_bases_where_case_counts() -> None:
    for benchmark in (Flipped(), Flipped(Flipped(), "FOMC", "lower")):
        specs = TaskSequence(benchmark, metrics="official").specs
        assert {specs[name].metric for name in benchmark.default_order(None)} == {"accuracy_trace"}
        assert {spec.metric for spec in specs.values()} <= METRICS.keys()
        assert specs["MeetingBank"].also == ("bleu_1_trace", "bleu_4_trace")
        assert TaskSequence(benchmark, max_new_tokens="official").specs["FOMC"].max_new_tokens == 512
    with pytest.raises(ConfigError, match=r"data\.metrics: Flipped has no official evaluator; use data"):
        TaskSequence(Flipped(SuperNI(), "Sentiment"), metrics="official")


REFUSED: dict[str, tuple[dict, type[Exception], str]] = {
    "free text": (
        {"task": "MeetingBank"},
        DataError,
        r"MeetingBank has no closed label set \(its 400 .* 179 different",
    ),
    "unknown task": ({"task": "FOCM"}, ConfigError, r"benchmark\.task: unknown task 'FOCM'; did you mean FOMC"),
    "unknown kind": ({"kind": "labls"}, ConfigError, r"^Flipped\.kind: 'labls' is not known; did you mean labels"),
    "letters for letters": ({"kind": "letters"}, ConfigError, r"letters changes nothing where answers of FOMC are 'A'"),
    "capitals for capitals": ({"kind": "upper"}, ConfigError, r"upper changes nothing .*; choose another format"),
    "words without words": ({"kind": "words"}, ConfigError, r"words: give it together with kind=words"),
    "words for another kind": ({"words": {"A": "x"}}, ConfigError, r"words: give it together with kind=words"),
    "a label without a word": (
        {"kind": "words", "words": {"A": "x"}},
        ConfigError,
        r"words: must name each .* A, B, C",
    ),
    "one word for two": (
        {"kind": "words", "words": {"A": "x", "B": "x", "C": "y"}},
        ConfigError,
        r"words gives two answers of FOMC the same text",
    ),
    "a word that is a label": (
        {"kind": "words", "words": {"A": "B", "B": "x", "C": "y"}},
        ConfigError,
        r"words changes nothing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_twin_can_be_made_of_is_reported_in_one_line(name: str) -> None:
    options, kind, line = REFUSED[name]
    with pytest.raises(kind, match=line) as error:
        flipped = Flipped(**options)
        flipped.tasks(None)
        flipped.load(None, flipped.twin)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        ([("a", "x"), ("b", "x")], [("c", "x")], "2 training examples have 1 different"),
        ([(f"p{i}", f"a{i}") for i in range(4)], [("q", "a1")], "4 training examples have 4 different"),
        (
            [(f"p{i}", "xy"[i % 2]) for i in range(6)],
            [("q", "z")],
            "test split has answers that train lacks, such as 'z'",
        ),
    ],
)
def test_answers_that_are_no_label_set(tmp_path: Path, train: list, test: list, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Flipped(task="Own").load(write(tmp_path, train, test), "Own")


class Several(SuperNI):
    """A task with two right answers to a prompt."""

    def load(self, root: Path | None, name: str) -> Splits:
        splits = super().load(root, name)
        return Splits(splits.train, (Example("t/0", "p", "positive", ("positive", "good")), *splits.test))


def test_several_right_answers_have_no_twin() -> None:
    with pytest.raises(DataError, match="several right answers"):
        Flipped(Several(), "Sentiment").load(None, "Sentiment")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--data.benchmark.task=MeetingBank", "--data.order=null"], "MeetingBank has no closed label set"),
        (["--data.benchmark.task=FOCM"], "unknown task 'FOCM'; did you mean FOMC"),
        (["--data.benchmark.kind=labls"], "Flipped.kind: expected 'labels' or 'letters' or "),
        (["--data.order=[FOMC, FOMC-fliped]"], "unknown task 'FOMC-fliped'; did you mean FOMC-flipped"),
    ],
)
def test_the_command_line_refuses_in_one_line(tmp_path: Path, options: list[str], line: str) -> None:
    result = launch(*configs("smoke"), *configs("flip_lora")[1:], *options, f"--sequence.run_dir={tmp_path / 'run'}")
    assert result.code == 2
    assert line in result.line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_the_real_fomc_flips() -> None:
    original, twin = pair(Flipped(), SHARED / "data")
    assert {(a.answer, b.answer) for a, b in zip(original.train, twin.train, strict=True)} == {
        ("A", "B"),
        ("B", "C"),
        ("C", "A"),
    }
    tested = {e.prompt for e in twin.test}
    assert not tested & {e.prompt for e in original.train}
