"""The profile of a task and its suitability for a metric: counts on made data, by hand."""

from collections import Counter
from dataclasses import replace

import pytest

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.audit.profile import Limits, Profile, balance, contradicted, percentiles, profile, words
from cl_lightning.data.audit.suitability import metric_problems, self_scores
from cl_lightning.data.base import Example, Splits, TaskSpec


def examples(split: str, *pairs: tuple[str, str]) -> tuple[Example, ...]:
    return tuple(Example(f"{split}/{i}", *pair) for i, pair in enumerate(pairs))


def test_a_profile_by_hand() -> None:
    first, second, third, fourth = examples("train", ("a b", "x"), ("a b", "y"), ("c", "x"), ("d e f", "x y z"))
    train = (first, second, third, replace(fourth, instruction=3, cue=2))
    long = Example("test/1", "c d e", "one two three", instruction=3, cue=2)
    test = (Example("test/0", "c", "far too long", ("far too long", "short")), long)
    dev = examples("dev", ("c", "x"), ("q", "x"))
    spec = TaskSpec("t", "rouge_l", max_new_tokens=2, published=(6, 3), source="made")
    found = profile(spec, Splits(train, test, blank=2, leaked=1, licence="MIT"), dev, words, Limits(prompt=2, answer=1))
    assert found == Profile(
        train=4,
        dev=2,
        test=2,
        blank=2,
        repeated=1,
        leaked=1,
        leaked_examples=1,
        dev_in_test=1,
        labels={},
        prompts=(2, 3, 3),
        answers=(1, 3, 3),
        cut_prompts=1,
        no_room=2,
        long_answers=1,
        over_budget=1,
        budget=2,
        expected=(6, 3),
        contradicted=1,
        dropped=1,
        source="made; its file says MIT",
    )
    assert found.flaws() == [
        "1 of 2 dev prompts are in test",
        "1 of 4 training prompts repeat an earlier one (data.dedup)",
        "1 training prompts occur with different answers",
        "1 test prompts (1 of 2 examples) are also in train (data.drop_leaks)",
        "2 training answers are blank and left out",
        "1 training examples are left out: their prompts are in test",
        "7/2 train/test examples; the published files have 6/3",
        "2 prompts exceed data.max_prompt_tokens by template, instruction and cue alone: training will refuse them",
        "1 of 4 training answers exceed data.max_answer_tokens: training refuses them, or leaves them out with "
        "data.long_answers=drop",
        "1 of 2 test answers are longer than the generation budget of 2: no prediction can be complete "
        "(data.max_new_tokens)",
    ]
    first_letter = TaskSpec("t", "first_letter", max_new_tokens=2)
    clean = profile(
        first_letter, Splits(examples("train", ("a", "x")), examples("test", ("b", "A b c"))), (), words, Limits()
    )
    assert clean.flaws() == [
        "1 of 1 test answers are longer than the generation budget of 2: the letter is scored, the rationale is cut "
        "(data.max_new_tokens)"
    ]


def test_contradicted_prompts_are_counted_once_and_exactly() -> None:
    assert contradicted(examples("t", ("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("b", "y"))) == 2
    assert contradicted(examples("t", ("a", "x"), ("a", "x "), ("a ", "y"), ("A", "z"))) == 0
    assert contradicted(()) == 0


def test_labels_are_a_small_closed_set() -> None:
    assert balance(Counter(["b", "a", "a", "a"] * 5)) == {"a": 0.75, "b": 0.25}
    assert balance(Counter(["a"] * 10)) == {"a": 1.0}
    assert balance(Counter([*"ab"] * 5 + ["c"])) == {}, "answers that are used less than five times on average"
    assert balance(Counter([str(i) for i in range(21)] * 5)) == {}
    assert balance(Counter(["one two three four five", "a"] * 5)) == {}


def test_percentiles() -> None:
    assert percentiles(range(1, 101)) == (50, 95, 100)
    assert percentiles([3]) == (3, 3, 3)
    assert percentiles([]) == (0, 0, 0)


def test_a_metric_that_does_not_fit_is_found() -> None:
    """Each line of `metric_problems`, and the metrics that have none on the same answers."""
    letters, code = examples("t", ("p", "A"), ("p", "B\n")), examples("t", ("p", "x = 1"), ("p", "<STR_LIT>"))
    assert self_scores("first_letter", letters) == [100.0, 100.0]
    assert metric_problems("first_letter", letters) == metric_problems("edit_similarity", code) == []
    assert metric_problems("rationale_rouge_l", letters) == [
        "2 of 2 references give an empty prediction full marks by rationale_rouge_l"
    ]
    assert metric_problems("rationale_rouge_l_trace", letters) == [
        "2 of 2 references score under 50 against themselves by rationale_rouge_l_trace"
    ]
    assert metric_problems("edit_similarity_trace", code) == [
        "1 of 2 references score under 50 against themselves by edit_similarity_trace"
    ]
    several = (Example("t/0", "p", "A", ("A", "yes")),)
    with pytest.raises(DataError, match=r"^t/0: first_letter: the answer 'yes' does not .*; choose a metric that fits"):
        self_scores("first_letter", several)
    with pytest.raises(ConfigError, match="unknown metric 'first_leter'"):
        self_scores("first_leter", several)


def test_labels_that_train_lacks_and_that_are_nearly_all_there_is_are_found() -> None:
    train = [Example(f"train/{i}", f"p{i}", "yes" if i else "no") for i in range(20)]
    test = [
        Example("test/0", "q", "maybe"),
        Example("test/1", "r", "maybe", ("maybe", " no\n")),
        Example("t", "s", "x"),
    ]

    def flaws(train: list[Example], test: list[Example]) -> list[str]:
        spec = TaskSpec("t", "accuracy", max_new_tokens=4)
        return profile(spec, Splits(tuple(train), tuple(test)), (), words, Limits()).flaws()

    assert flaws(train, test) == [
        "2 of 3 test answers never occur in train",
        "95% of the training answers are the same",
    ]
    assert flaws([replace(train[0], prompt="another"), *train], test[1:2]) == [], "less than 95 %"
    free = [Example(f"train/{i}", f"p{i}", f"answer {i}") for i in range(20)]
    assert flaws(free, test) == [], "answers in words of their own may be new"
