"""Matrices and scores of single prompts survive writing and reading; damage is noticed."""

import random

import pytest

from cl_lightning.common.errors import DataError
from cl_lightning.study.packed import pack_matrix, pack_scores, unpack_matrix, unpack_scores


def test_matrices_come_back() -> None:
    R = [[80.0, None, None], [55.5, 46.0, None], [100 / 3, 0.0, 53.0]]
    assert pack_matrix(R) == "80;55.5,46;33.3333,0,53"
    assert unpack_matrix(pack_matrix(R), 3) == [[80.0, None, None], [55.5, 46.0, None], [33.3333, 0.0, 53.0]]
    alone = [[80.0, None], [None, 40.0]]
    assert unpack_matrix(pack_matrix(alone), 2) == alone


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_right_and_wrong_answers_come_back_exactly(count: int) -> None:
    rng = random.Random(count)
    for scores in ([rng.choice([0.0, 100.0]) for _ in range(count)], [0.0] * count, [100.0] * count):
        packed = pack_scores([[scores, None], [scores, scores]])
        assert unpack_scores(packed, [count, count]) == [[scores, None], [scores, scores]]
        assert packed.startswith("b"), "one bit each"


def test_shares_come_back_within_a_fifth_of_a_point() -> None:
    scores = [0.0, 12.34, 99.9, 100.0]
    ((found,),) = unpack_scores(pack_scores([[scores]]), [4])
    assert found == pytest.approx(scores, abs=0.2)


@pytest.mark.parametrize("few", [[100.0, 0.0, 100.0], [100 / 2.55, 0.0, 100.0], [0.0] * 8])
def test_few_prompts_of_an_old_task_come_back(few: list[float]) -> None:
    every = [100.0, 0.0] * 5
    scores = [[every, None], [few, every], [None, few], [every, every]]
    packed = pack_scores(scores)
    assert unpack_scores(packed, [10, 10]) == scores
    assert packed.split(";")[1].startswith(str(len(few))) and packed[0] == "b"


@pytest.mark.parametrize("text", ["3", "0bAA==", "4b/w==", "99999999999b/w==", "2fAA=="])
def test_damage_of_few_prompts_is_noticed(text: str) -> None:
    with pytest.raises(DataError):
        unpack_scores(text, [9])


@pytest.mark.parametrize("text", ["bAA==", "b!", "x", "fAAAA", "b/w==,b/w==,b/w=="])
def test_damage_is_noticed(text: str) -> None:
    with pytest.raises(DataError):
        unpack_scores(text, [9, 9])


def test_bits_beyond_the_last_prompt_are_damage() -> None:
    assert unpack_scores("bDw==", [4]) == [[[100.0] * 4]]
    with pytest.raises(DataError, match="4 examples"):
        unpack_scores("b/w==", [4])


def test_a_matrix_that_is_too_wide_is_damage() -> None:
    with pytest.raises(DataError, match="more than 2 columns"):
        unpack_matrix("1,2,3", 2)
    with pytest.raises(DataError, match="no matrix"):
        unpack_matrix("1,zwei", 2)
