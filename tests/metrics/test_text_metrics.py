"""The text metrics against the official evaluators' outputs; every deviation is asserted with both values."""

import json
import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.base import Example
from cl_lightning.evaluation.baselines import baseline_items, majority_answer
from cl_lightning.metrics.edit import unmask
from cl_lightning.metrics.registry import METRICS, mean_score, metric
from cl_lightning.metrics.rouge import UnicodeTokenizer
from cl_lightning.metrics.sari import paragraph, sari_score
from tests.conftest import SHARED

ORACLES = SHARED / "oracles"
LETTER_TASKS = ["C-STANCE", "FOMC", "NumGLUE-cm", "NumGLUE-ds"]
PADDED = {"lead_space", "trail_space", "trail_newline"}
text = st.text(max_size=30)


@cache
def oracle(name: str) -> dict:
    path = ORACLES / name
    if not path.exists():
        pytest.skip(f"outputs of the official codes are not here (../shared/oracles/{name})")
    return json.loads(path.read_text(encoding="utf-8"))


def items(task: str) -> list[dict]:
    found = oracle("trace_text_metrics.json")[task]["items"]
    assert found
    return found


def edge(task: str, prediction: str) -> dict:
    edges = oracle("trace_text_metrics.json")["_edge"]
    return next(e for e in edges if (e["task"], e["prediction"]) == (task, prediction))


def score(name: str, prediction: str, reference: str, prompt: str = "") -> float:
    return METRICS[name]([prediction], [reference], [prompt])[0]


def ours(name: str, item: dict) -> float:
    return score(name, item["prediction"], item["reference"])


# --- against TRACE ----------------------------------------


@pytest.mark.parametrize("task", LETTER_TASKS)
def test_accuracy_is_traces_except_for_surrounding_whitespace(task):
    deviating = 0
    for item in items(task):
        official = 100 * item["official_single"]["accuracy"]
        if item["prediction"] != item["prediction"].strip():
            assert item["kind"] in PADDED
            assert (official, ours("accuracy", item)) == (0.0, 100.0)
            deviating += 1
        else:
            assert ours("accuracy", item) == official
    assert 0 < deviating < len(items(task)) / 2


def test_first_letter_is_traces_except_for_words_and_the_empty_prediction():
    deviating = []
    for item in items("ScienceQA"):
        official = item["official_single"]
        if not item["prediction"]:
            assert "IndexError" in official["error"]
            assert ours("first_letter", item) == 0.0
        elif ours("first_letter", item) != 100 * official["accuracy"]:
            deviating.append((item["prediction"][:2], official["accuracy"], ours("first_letter", item)))
    assert deviating == [("Ba", 1.0, 0.0)]  # choice B's line break was overwritten: "Ba..." is a word
    an_apple = edge("ScienceQA", "An apple")
    assert (an_apple["official"]["accuracy"], ours("first_letter", an_apple)) == (1.0, 0.0)
    phrase = edge("ScienceQA", "A because it is.")
    assert (phrase["official"]["accuracy"], ours("first_letter", phrase)) == (1.0, 100.0)


def test_edit_similarity_is_traces_except_for_the_algorithm_of_fuzzywuzzy():
    """The stored values are without python-Levenshtein: difflib's matching blocks, never above the LCS."""
    deviating = []
    for item in items("Py150"):
        official = item["official_single"]["similarity"]
        if ours("edit_similarity", item) != official:
            deviating.append((official, ours("edit_similarity", item)))
    assert sorted(deviating) == [(11.0, 21.0), (20.0, 25.0)]
    cases = {
        "x = <STR_LIT:abc> + <NUM_LIT>": (84.0, 84.0),
        "<CHAR_LIT:a> <NUM_LIT:12>": (100.0, 100.0),
        "def f ( self ) :": (84.0, 84.0),
    }
    for prediction, values in cases.items():
        found = edge("Py150", prediction)
        assert (found["official"]["similarity"], ours("edit_similarity", found)) == values


def test_edit_similarity_of_texts_that_unmasking_empties():
    """TRACE skips texts that un-masking empties, so an identical `<STR_LIT>` scores 0 there; here 100."""
    assert score("edit_similarity", "<STR_LIT>", "<STR_LIT>") == 100.0
    assert score("edit_similarity", "", "<STR_LIT>") == 0.0
    assert score("edit_similarity", "<STR_LIT>", "x") == 0.0


def test_sari_is_traces_with_its_source():
    data = oracle("trace_text_metrics.json")["20Minuten"]
    compared = 0
    for item in data["items"]:
        source = data["sources"][str(item["idx"])]
        official = item["official_single"]["sari"]
        assert sari_score(source, item["prediction"], item["reference"]) == pytest.approx(official, rel=0, abs=1e-9)
        compared += 1
    assert compared >= 50
    found = edge("20Minuten", "Das ist gut .")
    assert sari_score(found["source"], found["prediction"], found["reference"]) == found["official"]["sari"] == 100.0


def test_sari_takes_the_paragraph_where_trace_takes_the_whole_prompt():
    """The stored sources are prompts of made-up words; their frame is restored so that the paragraph is found."""
    data = oracle("trace_text_metrics.json")["20Minuten"]
    frame = re.compile(r"\A[^\n]*\n\n\S+:\n(.*)\n\n\S+:\Z", re.DOTALL)
    lower = 0
    for item in data["items"]:
        whole = data["sources"][str(item["idx"])]
        alone = frame.match(whole)[1]
        prompt = f"Provide a simplified version of the paragraph.\n\nParagraph:\n{alone}\n\nSimplification:"
        got = score("sari", item["prediction"], item["reference"], prompt)
        assert got == pytest.approx(sari_score(alone, item["prediction"], item["reference"]), abs=1e-12)
        assert abs(got - item["official_single"]["sari"]) < 1.0
        lower += got < item["official_single"]["sari"] - 1e-9
    assert lower > len(data["items"]) / 3


def test_rouge_l_is_not_traces():
    """TRACE's is the union LCS over sets of words, with case and without stems (package `rouge` 1.0.1)."""
    pairs = [
        (100 * item["official_single"]["rouge-L"], ours("rouge_l", item), item["kind"]) for item in items("MeetingBank")
    ]
    assert sum(abs(official - mine) > 0.01 for official, mine, _ in pairs) > len(pairs) / 3
    repeated = [(official, mine) for official, mine, kind in pairs if kind == "repeat"]
    assert repeated and all(official > 98 and mine == pytest.approx(200 / 3) for official, mine in repeated)
    exact = edge("MeetingBank", "a b c d")
    assert (100 * exact["official"]["rouge-L"], ours("rouge_l", exact)) == (
        pytest.approx(99.9999995, abs=1e-9),
        100.0,
    )
    cased = edge("MeetingBank", "The cat sat. On the mat.")
    assert (100 * cased["official"]["rouge-L"], ours("rouge_l", cased)) == (
        pytest.approx(72.7272723, abs=1e-6),
        100.0,
    )
    dots = edge("MeetingBank", "...")
    assert "ValueError" in dots["official"]["error"] and ours("rouge_l", dots) == 0.0
    blank = edge("MeetingBank", " ")
    assert blank["official"]["rouge-L"] == ours("rouge_l", blank) == 0.0


# --- against SAPT, GainLoRA -------------------------------


def test_rouge_l_is_sapts_and_gainloras():
    pairs = oracle("superni_text_metrics.json")["items"]
    assert len(pairs) >= 30
    for item in pairs:
        assert ours("rouge_l", item) == pytest.approx(100 * item["rougeL"], rel=0, abs=1e-10)


@pytest.mark.parametrize(
    ("key", "kinds"),
    [
        ("exact_match", ["newline", "punct", "punct", "punct", "space", "upper", "upper"]),
        ("slice_exact_match", ["newline", "space", "upper", "upper"]),
    ],
)
def test_accuracy_is_stricter_than_theirs(key, kinds):
    """SAPT and GainLoRA fold case, punctuation and space before they compare, SLICE case and space."""
    deviating = []
    for item in oracle("superni_text_metrics.json")["items"]:
        if ours("accuracy", item) != 100 * item[key]:
            assert (100 * item[key], ours("accuracy", item)) == (100, 0)
            deviating.append(item["kind"])
    assert sorted(deviating) == kinds


def test_rouge_l_outside_ascii_where_the_library_fails():
    library = RougeScorer(["rougeL"], use_stemmer=True)
    cases = [
        ("支持", "支持", 0.0, 100.0),
        ("支援", "支持", 0.0, 50.0),
        ("fär", "für", 100.0, 0.0),
        ("+", "+", 0.0, 100.0),
    ]
    for prediction, reference, official, mine in cases:
        assert 100 * library.score(reference, prediction)["rougeL"].fmeasure == pytest.approx(official)
        assert score("rouge_l", prediction, reference) == pytest.approx(mine)


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_tokeniser_is_the_librarys_on_ascii(sample):
    assert UnicodeTokenizer().tokenize(sample) == DefaultTokenizer(use_stemmer=True).tokenize(sample)


def test_tokeniser_of_other_scripts():
    tokens = UnicodeTokenizer().tokenize
    assert tokens("Für Hunde: 支持かA") == ["für", "hund", "支", "持", "か", "a"]
    assert tokens("fu\u0308r") == tokens("f\u00fcr")  # composed or not
    assert tokens("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # marks stay inside the word
    assert tokens("it’s 5–6") == tokens("it's 5-6") == ["it", "s", "5", "6"]


# --- single metrics ---------------------------------------


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [(text, 100) for text in ("A", "A.", "A\nbecause", " A) one")]
    + [(text, 0) for text in ("", "\n", "a", "B", "An apple", "A's", "A1", "The answer is A")],
)
def test_first_letter(prediction, expected):
    assert score("first_letter", prediction, "A\nbecause") == expected


def test_first_letter_refuses_a_reference_without_a_choice():
    with pytest.raises(DataError, match="'because'"):
        score("first_letter", "A", "because")


def test_unmask():
    assert unmask("f ( '<STR_LIT:a b>' , '<STR_LIT>' , <NUM_LIT> , <NUM_LIT:42> , '<CHAR_LIT:\n>' )") == (
        "f ( 'a b' , '' , 0 , 42 , '\n' )"
    )
    # The first match is "<NUM_LIT:5", which is replaced everywhere.
    assert unmask("<NUM_LIT:5> ( if <STR_LIT:<NUM_LIT:5>>") == "5 ( if <STR_LIT:5>"


def test_paragraph():
    frame = "Simplify the following paragraph in German.\n\nParagraph:\n{}\n\nSimplification:"
    assert paragraph(frame.format("Erster Satz.\nParagraph: zwei. Simplification: drei.")) == (
        "Erster Satz.\nParagraph: zwei. Simplification: drei."
    )
    assert paragraph("no frame at all") == "no frame at all"


def test_sari_by_hand():
    """Source "a b", output "a", reference "a c": by n-gram order n = 1..4.

    n = 1: keep P 1, R 1 -> 1; delete b, right -> 1; add nothing: P 1, but c was wanted: R 0 -> 0.
    n = 2: keep nothing to keep -> 1; delete "a b", right -> 1; add P 1, R 0 -> 0.
    n = 3, 4: no n-grams, 1 each.
    """
    assert sari_score("a b", "a", "a c") == pytest.approx(100 * (2 + 2 + 3 + 3) / 12)


@given(text, text)
def test_scores_are_in_range_and_identity_is_best(a, b):
    prompt = "Do it.\n\nParagraph:\n" + b + "\n\nSimplification:"
    official = {name for name in METRICS if name.endswith(("_trace", "_sapt", "_slice"))}
    for name in METRICS.keys() - {"first_letter"}:
        assert 0 <= score(name, a, b, prompt) <= 100 + 1e-9
        if name not in official:
            assert score(name, a, a, prompt) == pytest.approx(100)


@given(st.sampled_from("ABCDE"), text, text)
def test_first_letter_identity_and_range(letter, rest, prediction):
    reference = f"{letter}\n{rest}"
    assert score("first_letter", reference, reference) == 100
    assert score("first_letter", prediction, reference) in (0, 100)


def test_unknown_metric():
    with pytest.raises(ConfigError, match=r"'rouge_k'.*did you mean rouge_\w.*valid: accuracy, accuracy_trace, bleu"):
        metric("rouge_k")


def test_mean_score():
    assert mean_score([0.0, 100.0, 50.0]) == 50.0
    with pytest.raises(ValueError, match="no scores"):
        mean_score([])


# --- baselines --------------------------------------------


def examples(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(str(i), prompt, answer) for i, (prompt, answer) in enumerate(pairs)]


def test_majority_answer():
    assert majority_answer(["B", "A", "A", "B", "C"]) == "B"  # a tie: the first seen
    assert majority_answer(["B", "A", "A"]) == "A"
    with pytest.raises(ValueError, match="majority"):
        majority_answer([])


def test_baseline_items():
    train = examples(("p", "A"), ("q", "B"), ("r", "B"))
    test = examples(("x", "B"), ("A", "A"), ("y", "B"), ("z", "C"))
    scores = {"majority": [100.0, 0.0, 100.0, 0.0], "copy_prompt": [0.0, 100.0, 0.0, 0.0]}
    assert baseline_items("accuracy", train, test) == scores
    with pytest.raises(ConfigError, match="acuracy"):
        baseline_items("acuracy", train, test)
    with pytest.raises(ValueError, match="majority"):
        baseline_items("accuracy", [], test)
