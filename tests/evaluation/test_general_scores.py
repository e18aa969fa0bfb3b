"""Intervals of general ability: stratified by task, paired with the base model's, none if a score is not a mean."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.evaluation.general.scores import Part, Score, average, figure, item_rows, score_from, score_of
from cl_lightning.metrics.bootstrap import interval

RNG = np.random.default_rng(0)


def part(task: str, scores: list[float], weight: float = 1.0) -> Part:
    return Part(task, weight, tuple(range(len(scores))), tuple(scores))


def score(*parts: Part) -> Score:
    value = sum(p.weight * float(np.mean(p.scores)) for p in parts)
    return score_of(value, sum(len(p.scores) for p in parts), parts)


def coins(count: int, share: float) -> list[float]:
    return (100.0 * (RNG.random(count) < share)).tolist()


def test_differences_are_paired() -> None:
    """Five points more on every item: the difference has no width, though each score's interval is wide."""
    base = RNG.uniform(0, 90, 50).tolist()
    found = figure(score(part("a", [s + 5 for s in base])), score(part("a", base)))
    assert found.difference == pytest.approx(5.0)
    assert found.difference_interval == pytest.approx((5.0, 5.0))
    assert found.interval[1] - found.interval[0] > 8


def test_tasks_of_a_group_are_resampled_separately() -> None:
    """One task all right, one all wrong: no width within either, whereas pooled items would have one."""
    group = score(part("a", [100.0] * 40, 0.5), part("b", [0.0] * 40, 0.5))
    assert figure(group, group).interval == pytest.approx((50.0, 50.0))
    pooled = interval([100.0] * 40 + [0.0] * 40)
    assert pooled[1] - pooled[0] > 10, "negative control"


def test_tasks_of_equal_size_are_resampled_independently() -> None:
    """The standard error of a mean of k equal tasks is that of one over sqrt(k); equal draws would not shrink it."""
    one = coins(100, 0.5)
    alone = figure(score(part("a", one)), score(part("a", one))).interval
    mean = average([score(part(name, one)) for name in "abcdefghi"])
    low, high = figure(mean, mean).interval
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(1 / 3, abs=0.06)
    same = average([score(part("a", one)), score(part("a", one))])
    assert figure(same, same).interval == pytest.approx(alone), "the same items in two settings are drawn alike"


def test_weights_by_size_and_equal_weights() -> None:
    a, b = coins(300, 0.7), coins(100, 0.4)
    error = {name: np.var(values) / len(values) for name, values in (("a", a), ("b", b))}
    for weights in ((0.75, 0.25), (0.5, 0.5)):
        found = figure(*[score(part("a", a, weights[0]), part("b", b, weights[1]))] * 2)
        sd = math.sqrt(weights[0] ** 2 * error["a"] + weights[1] ** 2 * error["b"])
        assert found.interval == pytest.approx((found.score - 1.96 * sd, found.score + 1.96 * sd), abs=0.6)


@pytest.mark.parametrize("parts", [(), (part("a", [1.0, 2.0]),)])
def test_scores_that_are_not_means_have_no_interval(parts: tuple[Part, ...]) -> None:
    corpus = score_of(77.0, 2, parts)
    found = figure(corpus, corpus)
    assert not corpus.averaged
    assert (found.score, found.interval, found.difference_interval) == (77.0, None, None)
    mean = average([corpus, score(part("b", [3.0, 4.0]))])
    assert (mean.value, figure(mean, mean).interval) == (40.25, None)
    assert score_of(1.5 + 1e-9, 2, [part("a", [1.0, 2.0])]).averaged, "rounding"


def test_items_that_differ_from_the_bases_are_refused() -> None:
    with pytest.raises(ConfigError, match="items of a differ from those that the base model was measured on"):
        figure(score(part("a", [1.0, 2.0, 3.0])), score(part("a", [1.0, 2.0])))


def test_scores_survive_json() -> None:
    made = score(part("a", [1.0, 2.5], 0.25), part("b", [4.0], 0.75))
    assert score_from(json.loads(json.dumps(asdict(made)))) == made
    assert item_rows("GP", "A", made)[2] == {"setting": "GP", "task": "A", "lm_eval_task": "b", "id": 0, "score": 4.0}
