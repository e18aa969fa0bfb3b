"""Official metrics against stored values of the official codes, and every listed difference with both values."""

import json
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example
from cl_lightning.data.benchmarks.trace import TRACE
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.baselines import baseline_items
from cl_lightning.metrics.parity import DEVIATIONS
from cl_lightning.metrics.registry import METRICS, best_scores, official_name
from cl_lightning.metrics.scored import score_predictions
from tests.conftest import SHARED

ORACLES = SHARED / "oracles"
#: TRACE's task, key and scale in its evaluator's output -> our name of it.
TRACES = {
    ("C-STANCE", "accuracy", 100): "accuracy_trace",
    ("FOMC", "accuracy", 100): "accuracy_trace",
    ("NumGLUE-cm", "accuracy", 100): "accuracy_trace",
    ("NumGLUE-ds", "accuracy", 100): "accuracy_trace",
    ("MeetingBank", "rouge-L", 100): "rouge_l_trace",
    ("MeetingBank", "bleu-1", 100): "bleu_1_trace",
    ("MeetingBank", "bleu-4", 100): "bleu_4_trace",
    ("Py150", "similarity", 1): "edit_similarity_trace",
    ("ScienceQA", "accuracy", 100): "first_letter_trace",
    ("ScienceQA", "rouge-L", 100): "rationale_rouge_l_trace",
    ("ScienceQA", "bleu-1", 100): "rationale_bleu_1_trace",
    ("ScienceQA", "bleu-4", 100): "rationale_bleu_4_trace",
    ("20Minuten", "sari", 1): "sari_trace",
    ("20Minuten", "rouge-L", 100): "rouge_l_trace",
    ("20Minuten", "bleu-1", 100): "bleu_1_trace",
    ("20Minuten", "bleu-4", 100): "bleu_4_trace",
}
OTHERS = {
    "exact_match": "exact_match_sapt",
    "rouge1": "rouge_1_sapt",
    "rougeL": "rouge_l_sapt",
    "slice_exact_match": "exact_match_slice",
    "slice_rouge_l_f1": "rouge_l_slice",
}


@cache
def oracle(name: str) -> dict:
    path = ORACLES / name
    if not path.exists():
        pytest.skip(f"outputs of the official codes are not here (../shared/oracles/{name})")
    return json.loads(path.read_text(encoding="utf-8"))


def score(name: str, prediction: str, reference: str, prompt: str = "") -> float:
    return METRICS[name]([prediction], [reference], [prompt])[0]


@pytest.mark.parametrize(("task", "key", "scale"), TRACES)
def test_official_trace_metrics_equal_traces_code(task: str, key: str, scale: int) -> None:
    data, name = oracle("trace_text_metrics.json"), TRACES[task, key, scale]
    edges = [(e, e["official"], e["source"] or "") for e in data["_edge"] if e["task"] == task]
    sources = data[task].get("sources", {})
    pairs = [(i, i["official_single"], sources.get(str(i["idx"]), "")) for i in data[task]["items"]]
    compared = 0
    for item, official, source in pairs + edges:
        if "error" in official:  # where the official evaluator raises, ours gives 0
            assert score(name, item["prediction"], item["reference"], source) == 0.0
            continue
        mine = score(name, item["prediction"], item["reference"], source)
        assert mine == pytest.approx(scale * official[key], rel=0, abs=1e-10), item["kind"]
        compared += 1
    assert compared >= 50


@pytest.mark.parametrize("key", OTHERS)
def test_official_sapt_and_slice_metrics_equal_their_code(key: str) -> None:
    items = oracle("superni_text_metrics.json")["items"]
    for item in items:
        mine = score(OTHERS[key], item["prediction"], item["reference"])
        assert mine == pytest.approx(100 * item[key], rel=0, abs=1e-10)
    assert len({item[key] for item in items}) > 1


#: For each deviation, one pair on which the two metrics differ: (prediction, reference, prompt, ours, official).
APART = {
    ("accuracy", "accuracy_trace"): ("A\n", "A", "", 100.0, 0.0),
    ("first_letter", "first_letter_trace"): ("An apple", "A\nBecause", "", 0.0, 100.0),
    ("rouge_l", "rouge_l_trace"): ("a a a b", "a b", "", 200 / 3, 100.0),
    ("rationale_rouge_l", "rationale_rouge_l_trace"): (" B) it floats", "B\nit floats", "", 100.0, 80.0),
    ("bleu", "bleu_1_trace"): ("the cat sat", "the cat sat down", "", 71.65, 71.65),
    ("bleu", "bleu_4_trace"): ("the cat sat", "the cat sat down", "", 71.65, 0.0),
    ("rationale_bleu", "rationale_bleu_1_trace"): (" B) it floats", "B\nit floats", "", 100.0, 66.67),
    ("rationale_bleu", "rationale_bleu_4_trace"): (" B) it floats", "B\nit floats", "", 100.0, 0.0),
    ("edit_similarity", "edit_similarity_trace"): ("<STR_LIT>", "<STR_LIT>", "", 100.0, 0.0),
    # omitting the instruction counts as a correct deletion
    ("sari", "sari_trace"): ("a", "a b", "Simplify it.\nParagraph: a b Simplification:", 72.22, 86.66),
    ("exact_match", "exact_match_sapt"): ("+", "-", "", 0.0, 100.0),
    ("rouge_1", "rouge_1_sapt"): ("支持", "支持", "", 100.0, 0.0),
    ("rouge_l", "rouge_l_sapt"): ("支援", "支持", "", 50.0, 0.0),
    ("exact_match", "exact_match_slice"): ("sports!", "sports", "", 100.0, 0.0),
    ("rouge_l", "rouge_l_slice"): ("runs", "running", "", 100.0, 0.0),
}


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda d: d.official)
def test_every_deviation_is_described_and_real(deviation) -> None:
    assert {deviation.ours, deviation.official} <= METRICS.keys()
    assert deviation.what and deviation.why
    prediction, reference, prompt, ours, official = APART[deviation.ours, deviation.official]
    assert score(deviation.ours, prediction, reference, prompt) == pytest.approx(ours, abs=0.01)
    assert score(deviation.official, prediction, reference, prompt) == pytest.approx(official, abs=0.01)


def test_every_official_metric_has_a_deviation() -> None:
    official = {name for name in METRICS if name.endswith(("_trace", "_sapt", "_slice"))}
    assert official == {d.official for d in DEVIATIONS}
    assert {(d.ours, d.official) for d in DEVIATIONS} == APART.keys()


OURS = [name for name in METRICS if not name.endswith(("_trace", "_sapt", "_slice"))]


@pytest.mark.parametrize("name", [name for name in OURS if name != "edit_similarity"])
def test_our_metrics_ignore_surrounding_whitespace(name: str) -> None:
    bare = ("B it floats on = water", "B it sinks on = water at once")
    padded = (f"\n {bare[0]} \n", f"  {bare[1]}\t")
    prompt = "Simplify it.\nParagraph: it swims Simplification:"
    assert score(name, *padded, prompt) == score(name, *bare, prompt)


def test_predictions_are_not_stripped_before_scoring() -> None:
    """Stripping one side only would make an exact answer wrong under the official metrics."""
    rows = [{"id": "0", "prediction": "x = 1 ", "reference": "x = 1 "}, {"id": "1", "prediction": "", "reference": ""}]
    assert [row["score"] for row in score_predictions("accuracy_trace", rows, ["", ""]).rows] == [100.0, 0.0]
    assert [row["score"] for row in score_predictions("edit_similarity_trace", rows, ["", ""]).rows] == [100.0, 0.0]
    assert score_predictions("accuracy", [{**rows[0], "prediction": "x = 1\n"}], [""]).score == 100.0


@pytest.mark.parametrize(("task", "key", "scale"), [pair for pair in TRACES if pair[0] != "20Minuten"])
def test_rows_give_traces_mean(task: str, key: str, scale: int) -> None:
    items = [i for i in oracle("trace_text_metrics.json")[task]["items"] if "error" not in i["official_single"]]
    rows = [{"id": str(i["idx"]), "prediction": i["prediction"], "reference": i["reference"]} for i in items]
    official = [scale * item["official_single"][key] for item in items]
    mine = score_predictions(TRACES[task, key, scale], rows, [""] * len(rows)).score
    assert mine == pytest.approx(sum(official) / len(official), rel=0, abs=1e-9)


# --- data.metrics -----------------------------------------


def test_the_switch_names_every_tasks_official_metric() -> None:
    ours, official = TaskSequence(TRACE()), TaskSequence(TRACE(), metrics="official")
    for name in ours.order:
        assert official.specs[name].metric == f"{ours.specs[name].metric}_trace"
        assert official.specs[name].metric in METRICS


def test_the_switch_needs_an_official_evaluator() -> None:
    class Own(TRACE):
        evaluator = None

    with pytest.raises(ConfigError, match=r"data\.metrics: Own has no official evaluator"):
        TaskSequence(Own(), metrics="official")


def test_an_evaluator_without_the_metric_is_refused() -> None:
    assert official_name("rouge_l", "sapt") == official_name("rouge_l_sapt", "sapt") == "rouge_l_sapt"
    with pytest.raises(ConfigError, match=r"the official evaluator \(sapt\) has no metric accuracy"):
        official_name("accuracy", "sapt")


# --- new to both ------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (" Sports! ", "sports", 100),
        ("very  good", "Very good.", 100),
        ("verygood", "very good", 0),
        ("", "x", 0),
        ("+", "+", 100),
        ("+", "-", 0),
        ("-5", "5", 100),  # declared: numbers want `accuracy`
    ],
)
def test_exact_match(prediction: str, reference: str, expected: float) -> None:
    assert score("exact_match", prediction, reference) == expected


def test_rouge_by_hand() -> None:
    """ "a b c" against "a b d c": 3 of 3 and 4 words; pairs ab of (ab bc) and (ab bd dc); LCS a b c."""
    assert score("rouge_1", "a b c", "a b d c") == pytest.approx(100 * 6 / 7)
    assert score("rouge_2", "a b c", "a b d c") == pytest.approx(100 * 2 / 5)
    assert score("rouge_l", "a b c", "a b d c") == pytest.approx(100 * 6 / 7)
    assert score("rouge_l", "c b a", "a b c") == pytest.approx(100 / 3)
    assert score("rouge_1", "c b a", "a b c") == 100
    assert score("rouge_2", "running dogs", "runs dog") == 100  # stemmed


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The cat, sat!", "a cat sat", 100),
        ("cat sat", "cat sat on mat", 100 * 2 * 2 / 6),
        ("cat cat", "cat", 100 * 2 / 3),
        ("", "", 100),
        ("the", "a", 100),
        ("", "cat", 0),
        ("支持者", "支持", 80),
        ("支持。", "支持", 100),
        ("1990", "1991", 0),
    ],
)
def test_f1(prediction: str, reference: str, expected: float) -> None:
    assert score("f1", prediction, reference) == pytest.approx(expected)


@given(st.text(st.sampled_from("ab c.A,'"), max_size=30), st.text(st.sampled_from("ab c.A,'"), max_size=30))
def test_f1_is_squads(prediction: str, reference: str) -> None:
    from torchmetrics.functional.text import squad

    theirs = squad(
        {"prediction_text": prediction, "id": "0"},
        {"answers": {"answer_start": [0], "text": [reference]}, "id": "0"},
    )
    assert score("f1", prediction, reference) == pytest.approx(float(theirs["f1"]), abs=1e-3)


def test_bleu_is_sacrebleus_on_words_and_reads_han() -> None:
    pairs = [("the cat sat on the mat", "the cat is on the mat"), ("a b", "a b c"), ("it's", "it is")]
    library = BLEU(effective_order=True)
    for prediction, reference in pairs:
        assert score("bleu", prediction, reference) == library.sentence_score(prediction, [reference]).score
    assert score("bleu", "支持者", "支持的") == pytest.approx(
        BLEU(effective_order=True, tokenize="zh").sentence_score("支持者", ["支持的"]).score
    )
    assert score("bleu", "", "a") == 0.0
    # two words: 1/1 and 1/1 matched, brevity exp(1 - 3/2)
    assert score("bleu", "a b", "a b c") == pytest.approx(60.65, abs=0.01)


def test_the_rationale_is_scored_apart_from_the_choice() -> None:
    assert score("rationale_rouge_l", "A\nit floats on water", "B. It floats on water.") == 100
    assert score("first_letter", "A\nit floats on water", "B. It floats on water.") == 0
    assert score("rationale_rouge_l", "B", "B\nit floats") == 0
    assert score("rationale_rouge_l", "it floats", "B\nit floats") == 100  # no choice: all of it is reasons


@pytest.mark.parametrize("name", ["exact_match", "rouge_1", "rouge_2", "bleu", "f1"])
def test_several_references_count_by_the_best(name: str) -> None:
    references = [["no", "yes indeed", "maybe"], ["no"]]
    assert best_scores(name, ["yes indeed", "yes indeed"], references, ["", ""]) == [100.0, 0.0]


def test_baselines_know_the_new_metrics() -> None:
    test = [Example("0", "p", "b c"), Example("1", "q", "d")]
    assert baseline_items("f1", [Example("t", "p", "b c")], test)["majority"] == [100.0, 0.0]
