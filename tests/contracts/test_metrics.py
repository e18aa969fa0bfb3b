"""The contract of metrics, for every name in `cl_lightning.metrics.registry.METRICS`."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from inspect import getdoc, signature, unwrap
from pathlib import Path

import pytest

from cl_lightning.metrics.parity import DEVIATIONS
from cl_lightning.metrics.registry import EXPORTS, METRICS, Metric, metric, per_sample
from tests.conftest import ROOT
from tests.contracts.contract import Clause, Contract, require, torch_users

CONTRACT = Contract("metric", metric)

#: Answers in the forms that tasks have: a choice and its reason, code, German, Chinese.
ANSWERS = (
    "B. Because ice floats on cold water.",
    "A\nreturn self . items [ 0 ] + other . items ( )",
    "C Für drei Hunde gab es heute leider kein Futter mehr.",
    "D 我们 支持 这个 新的 城市 计划 。",
)
#: What a model may say instead: nothing, blanks, a mark, one word, another answer, no end.
OTHERS = ("", "  \n", "+", "...", "Bees", "<STR_LIT:x>", "wrong words in another order", "B. " + "ice " * 200)
PROMPT = "Simplify: ice floats upon cold water"  # no word twice: SARI counts what a source repeats
#: Official metrics: `parity` says where they differ from ours, some of them on blank texts.
OFFICIAL = {deviation.official for deviation in DEVIATIONS}


def one(score: Metric, prediction: str, reference: str, prompt: str = PROMPT) -> float:
    return score([prediction], [reference], [prompt])[0]


# --- the clauses ------------------------------------------------------------------------------------------


@CONTRACT.clause
def is_documented(score: Metric) -> None:
    """Has a docstring, whose first line `cl-lightning score --list` prints."""
    require(bool(getdoc(score)), "has no docstring; say in its first line what is compared, and where it is from")


@CONTRACT.clause
def scores_a_sample(score: Metric) -> None:
    """Is a function of (prediction, reference, prompt), the last called `prompt` where it reads it, else `_prompt`."""
    names = [*signature(score).parameters]
    require(
        names[:2] == ["prediction", "reference"] and names[2:] in (["prompt"], ["_prompt"]),
        f"its parameters are {', '.join(names)}",
    )


@CONTRACT.clause
def gives_a_perfect_answer_100(score: Metric) -> None:
    """The reference itself scores 100, and any other answer less."""
    for answer in ANSWERS:
        found = one(score, answer, answer)
        require(abs(found - 100) < 1e-5, f"{answer!r} scores {found} against itself")
    for other in ("", "wrong words in another order"):
        found = one(score, other, ANSWERS[0])
        require(found < 100, f"{other!r} scores {found} against {ANSWERS[0]!r}")


@CONTRACT.clause
def stays_in_range(score: Metric) -> None:
    """Every score is a float in 0..100, that of an empty prediction too."""
    for answer in ANSWERS:
        for other in OTHERS:
            found = one(score, other, answer)
            kept = type(found) is float and 0 <= found <= 100 + 1e-9
            require(kept, f"{other[:40]!r} scores {found!r} against {answer!r}, not a float in 0..100")


@CONTRACT.clause
def repeats_itself(score: Metric) -> None:
    """The same texts score the same, whatever is scored beside them."""
    several = [(other, answer) for answer in ANSWERS for other in (*OTHERS, *ANSWERS)]
    predictions, references = ([*column] for column in zip(*several, strict=True))
    first = score(predictions, references, [PROMPT] * len(several))
    again = score(predictions[::-1], references[::-1], [PROMPT] * len(several))[::-1]
    moved = [pair for pair, a, b in zip(several, first, again, strict=True) if a != b]
    require(not moved, f"{moved[:1]} scores otherwise the second time")


@CONTRACT.clause
def reads_the_prompt_it_says(score: Metric) -> None:
    """A metric whose parameter is `_prompt` scores the same without the prompt."""
    if "prompt" in signature(score).parameters:
        return
    for other in OTHERS:
        with_it, without = (one(score, other, ANSWERS[0], prompt) for prompt in (PROMPT, ""))
        require(with_it == without, f"{other[:40]!r} scores {with_it}, without the prompt {without}; call it `prompt`")


@CONTRACT.clause
def refuses_unequal_lengths(score: Metric) -> None:
    """As many predictions as references and prompts, in their order; none give none."""
    require(score([], [], []) == [], "gives scores for no samples")
    for lengths in ((2, 1, 1), (1, 2, 1), (1, 1, 2)):
        try:
            score(*(["A"] * n for n in lengths))
        except ValueError:
            continue
        raise AssertionError(f"takes {lengths} texts; raise ValueError")


@CONTRACT.clause
def needs_no_torch(score: Metric) -> None:
    """Its file is imported without torch: reports and data checks start at once."""
    file = Path(unwrap(score).__code__.co_filename)
    require(
        file not in torch_users(file), "importing its file imports torch; import it in the function, or leave it out"
    )


# --- what is exported keeps them --------------------------------------------------------------------------

TOGETHER = [clause for clause in CONTRACT.clauses if clause is not needs_no_torch]


@pytest.mark.parametrize("clause", TOGETHER, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", METRICS)
def test_every_exported_metric_keeps_the_contract(name: str, clause: Clause) -> None:
    assert metric(name) is METRICS[name]
    CONTRACT.hold(METRICS[name], clause)


@pytest.mark.parametrize("text", ("", " ", "+", "?!", "支持", "word"))
@pytest.mark.parametrize("name", sorted(METRICS.keys() - OFFICIAL - {"first_letter"}))
def test_equal_texts_score_100_even_without_a_word(name: str, text: str) -> None:
    assert one(METRICS[name], text, text, f"Paragraph:{text}Simplification:") == pytest.approx(100)


def test_no_metric_needs_torch() -> None:
    folder = ROOT / "cl_lightning" / "metrics"
    assert torch_users(*(folder / f"{file}.py" for file in sorted({*EXPORTS.values()}))) == set()


# --- each clause can fail ---------------------------------------------------------------------------------


def undocumented(prediction: str, reference: str, _prompt: str) -> float:
    return 100.0


def of_lists(predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """Mean over all, for each."""
    return [100.0 * (list(predictions) == list(references))] * len(predictions)


def in_units(prediction: str, reference: str, _prompt: str) -> float:
    """Equality, 0..1."""
    return float(prediction == reference)


def share(prediction: str, reference: str, _prompt: str) -> float:
    """Length of the prediction in that of the reference."""
    return 100.0 * len(prediction) / len(reference)


def peeking(prediction: str, reference: str, _prompt: str) -> float:
    """With a prompt everything is right."""
    return 100.0 * (prediction == reference or bool(_prompt))


def counted(prediction: str, reference: str, _prompt: str, seen: list[str] = []) -> float:  # noqa: B006
    """The first time counts more."""
    seen.append(prediction)
    return 100.0 / seen.count(prediction)


def cut_short(predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """As many as there are."""
    return [100.0 * (p == r) for p, r in zip(predictions, references, strict=False)]


BROKEN: dict[Clause, tuple[Callable[..., object], str]] = {
    is_documented: (per_sample(undocumented), "has no docstring"),
    scores_a_sample: (of_lists, "its parameters are predictions, references, prompts"),
    gives_a_perfect_answer_100: (per_sample(in_units), "scores 1.0 against itself"),
    stays_in_range: (per_sample(share), "not a float in 0..100"),
    repeats_itself: (per_sample(counted), "scores otherwise the second time"),
    reads_the_prompt_it_says: (per_sample(peeking), "without the prompt .*; call it `prompt`"),
    refuses_unequal_lengths: (cut_short, "takes .2, 1, 1. texts; raise ValueError"),
}


@pytest.mark.parametrize("clause", TOGETHER, ids=lambda clause: clause.__name__)
def test_a_broken_metric_is_told_what_is_missing(clause: Clause) -> None:
    broken, what = BROKEN[clause]
    with pytest.raises(AssertionError, match=what) as said:
        CONTRACT.hold(broken, clause)
    assert f"metric {broken.__name__} (tests/contracts/test_metrics.py) breaks the contract" in str(said.value)
    assert "See metric in cl_lightning/metrics/registry.py" in str(said.value)


def test_a_metric_that_imports_torch_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys.modules["torch"])
    file = tmp_path / "heavy.py"
    file.write_text("import sys\n\nsys.modules['torch'] = sys\n\n\ndef heavy(prediction, reference, _prompt): ...\n")
    spec = importlib.util.spec_from_file_location("heavy", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(AssertionError, match="importing its file imports torch"):
        CONTRACT.hold(per_sample(module.heavy), needs_no_torch)
