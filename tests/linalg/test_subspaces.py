"""Growth of subspaces and design of A against the equations, float64, and against the published code's outputs."""

import math

import pytest
import torch
from torch import Tensor

from cl_lightning.linalg.subspaces import (
    Count,
    Energy,
    Subspace,
    _blocks,
    add_to_mean,
    captured_energy,
    complement,
    design,
    empty,
    energy_share,
    grow,
    project_out,
)
from tests import reference

D, R = 24, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(rank: int, seed: int = 0, size: int = D) -> Tensor:
    """Of 4 rank inputs in `rank` dimensions, with falling energy."""
    X = (
        normal(4 * rank, rank, seed=seed)
        * torch.arange(1, rank + 1).double() ** -1.0
        @ normal(rank, size, seed=seed + 9)
    )
    return X.t() @ X / len(X)


def is_basis(M: Tensor) -> None:
    assert torch.allclose(M.t() @ M, torch.eye(M.shape[1], dtype=M.dtype), atol=1e-12)


@pytest.mark.parametrize("energy", ["eigen", "eigen_squared"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.995])
def test_growth_reaches_the_share_with_as_few_directions_as_it_takes(energy: Energy, share: float) -> None:
    M = empty(D)
    for task in range(3):
        C, before = covariance(8, seed=task), M
        M = grow(M, C, share, energy)
        is_basis(M)
        assert torch.equal(M[:, : before.shape[1]], before)
        assert captured_energy(M, C, energy) >= share - 1e-12
        if M.shape[1] > before.shape[1]:
            assert captured_energy(M[:, :-1], C, energy) < share


def test_energy_is_what_the_equations_say() -> None:
    C, M = covariance(8), grow(empty(D), covariance(5, seed=3), 0.9)
    P = M @ M.t()
    missed = (torch.eye(D) - P) @ C
    assert captured_energy(M, C) == pytest.approx(float((P @ C).trace() / C.trace()), abs=1e-12)
    assert captured_energy(M, C, "eigen_squared") == pytest.approx(
        1 - float((missed**2).sum() / (C**2).sum()), abs=1e-12
    )
    # The published rule's 99.5 % is less of the energy: it counts large eigenvalues doubly.
    squared, plain = (grow(empty(D), C, 0.995, energy) for energy in ("eigen_squared", "eigen"))
    assert captured_energy(squared, C) < 0.995 <= captured_energy(plain, C)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_share_of_one_is_the_rank_of_what_was_seen(dtype: torch.dtype) -> None:
    C = covariance(6).to(dtype)
    M = grow(empty(D), C, 1.0)
    assert M.shape == (D, 6)
    assert float(project_out(M, C.double()).norm() / C.double().norm()) < (1e-6 if dtype == torch.float32 else 1e-14)
    assert grow(M, C, 1.0).shape == (D, 6), "what is held already adds nothing"
    assert grow(M, covariance(30, seed=1).to(dtype), 1.0).shape == (D, D)


def test_below_stops_one_short_of_reach_on_the_first_task_only() -> None:
    C = covariance(8)
    counts = {count: grow(empty(D), C, 0.9, count=count).shape[1] for count in ("reach", "below")}
    assert counts["below"] == counts["reach"] - 1
    M = grow(empty(D), covariance(4, seed=5), 0.9)
    assert torch.equal(grow(M, C, 0.9, count="below"), grow(M, C, 0.9))
    assert grow(empty(D), C, 1e-6, count="below").shape[1] == 1


@pytest.mark.parametrize("how", ["pca", "pca_one_sided", "random"])
@pytest.mark.parametrize("rank_of_new", [1, 10])
def test_a_designed_A_is_orthogonal_to_the_inputs_seen(how: str, rank_of_new: int) -> None:
    """Also where the new inputs have fewer directions than A has rows: the rest is arbitrary, but outside."""
    M = grow(empty(D), covariance(6), 1.0)
    inside = M @ normal(6, 5)
    A = design(M, covariance(rank_of_new, seed=4) + 0.1 * M @ M.t(), normal(R, D, seed=8), how)
    assert A.shape == (R, D)
    assert float((A @ inside).norm() / inside.norm()) < 1e-12
    assert torch.allclose(A.norm(dim=1), torch.full((R,), 1 / math.sqrt(3), dtype=torch.float64))
    assert torch.linalg.matrix_rank(A) == R
    unprojected = design(empty(D), covariance(6), normal(R, D, seed=8), how)  # as drawn, where it is random
    assert float((unprojected @ inside).norm() / inside.norm()) > 1e-2, "negative control: without M it is not"


def test_pca_takes_the_leading_directions_of_what_is_new() -> None:
    M, C = grow(empty(D), covariance(6), 1.0), covariance(9, seed=4)
    Q = torch.eye(D) - M @ M.t()
    _, vectors = torch.linalg.eigh(Q @ C @ Q)
    wanted = vectors[:, -R:]
    A = design(M, C, normal(R, D), "pca") * math.sqrt(3)
    assert torch.allclose(A.t() @ A, wanted @ wanted.t(), atol=1e-10)


@pytest.mark.parametrize("chunks", [2, 4])
def test_blocks_have_subspaces_of_their_own_and_protect_the_whole(chunks: int) -> None:
    seen = normal(D, 5)
    C = seen @ seen.t() / 5
    M = grow(empty(D), C, 1.0, chunks=chunks)
    assert torch.allclose(M.t() @ M, torch.eye(M.shape[1], dtype=M.dtype), atol=1e-12)
    assert M.shape[1] == min(5, D // chunks) * chunks
    moved = normal(7, D, seed=3)
    moved = moved - moved @ M @ M.t()
    assert (moved @ seen).abs().max() < 1e-12, "the sum over blocks, though only each block was held"
    grown = grow(M, C, 1.0, chunks=chunks)
    assert torch.allclose(grown @ grown.t(), M @ M.t(), atol=1e-12), "what is held already adds nothing"
    assert Subspace.spanned_by(M, chunks).full().shape == M.shape
    back = Subspace.spanned_by(M, chunks).full()
    assert torch.allclose(back @ back.t(), M @ M.t(), atol=1e-12)
    assert len(_blocks(back, chunks)) == chunks, "blocks survive being kept by their complement"
    for part, old in zip(_blocks(back, chunks), _blocks(M, chunks), strict=True):
        assert torch.allclose(part @ part.t(), old @ old.t(), atol=1e-12)
    with pytest.raises(ValueError, match=f"{D} coordinates cannot be divided into 7 equal blocks"):
        grow(M, C, 1.0, chunks=7)


@pytest.mark.parametrize("how", ["pca", "pca_one_sided", "random"])
def test_a_designed_A_is_orthogonal_to_the_inputs_block_by_block(how: str) -> None:
    M = grow(empty(D), covariance(3), 1.0, chunks=2)
    A = design(M, covariance(9, seed=4), normal(R, D, seed=8), how, chunks=2)
    assert (A @ M).abs().max() < 1e-12
    assert torch.allclose(A.norm(dim=1), torch.full((R,), 1 / math.sqrt(3), dtype=torch.float64))
    assert torch.equal(design(M, covariance(9), normal(R, D), how), design(M, covariance(9), normal(R, D), how, 1))


def test_an_empty_complement_is_refused() -> None:
    M = grow(empty(D), covariance(D), 1.0)
    assert complement(M).shape == (D, 0)
    with pytest.raises(ValueError, match=f"0 of {D} input dimensions are left outside earlier tasks', rank {R} needs"):
        design(M, covariance(3), normal(R, D))
    assert grow(M, covariance(4), 1.0).shape == (D, D)


def test_bad_input_is_named() -> None:
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share of energy lies in"):
            grow(empty(D), covariance(2), share)
        with pytest.raises(ValueError, match="share of energy lies in"):
            energy_share(share, 0, 15)
    with pytest.raises(ValueError, match="not finite"):
        grow(empty(D), covariance(2) * float("nan"), 0.9)
    assert grow(empty(D), torch.zeros(D, D), 0.9).shape == (D, 0)


def test_the_schedule_starts_at_eps_and_rises_below_one() -> None:
    shares = [energy_share(0.995, task, 15) for task in range(15)]
    assert shares[0] == 0.995
    assert shares == sorted(set(shares)) and shares[-1] < 1
    assert energy_share(0.95, 2, 15) == pytest.approx(0.9566666666666667)


def test_a_mean_that_streams_is_the_mean_and_the_published_one_is_another() -> None:
    X, C, twice = normal(11, 4), torch.zeros(4, 4), torch.zeros(4, 4)
    for start, stop in ((0, 4), (4, 8), (8, 11)):
        C, twice = (add_to_mean(m, start, X[start:stop], t) for m, t in ((C, False), (twice, True)))
    assert torch.allclose(C, X.t() @ X / 11, atol=1e-14)
    assert not torch.allclose(twice * (C.trace() / twice.trace()), C, atol=1e-3), "not even up to its scale"


def test_the_published_means_of_gate_features() -> None:
    arrays = reference.tensors("gainlora_t5_gates")
    at = "flan_like_task3|fp64"
    features = [arrays[f"{at}|p{index}"].reshape(5, -1) for index in range(3)]
    for index, p in enumerate(features):
        C = torch.zeros(p.shape[1], p.shape[1], dtype=torch.float64)
        for start, stop in ((0, 3), (3, 5)):
            C = add_to_mean(C, start, p[start:stop], counted_twice=index == 1)
        assert torch.allclose(C, arrays[f"{at}|cov|C{index + 1}"].reshape(C.shape), atol=1e-10), index


@pytest.mark.parametrize("share", ["0.995", "0.95"])
def test_the_published_rule_gives_the_published_bases_and_designs(share: str) -> None:
    arrays, run = reference.tensors("gpm_inflora"), reference.facts("gpm_inflora")["runs"][f"chunk1|thr{share}|fp64"]

    def array(key: str) -> Tensor:
        return arrays[key].double()

    rule: tuple[Energy, Count] = ("eigen_squared", "below")
    for name in ("att0_c0", "att1_c0", "t1_c0", "t3_c0", "t2"):
        M = empty(len(array(f"chunk1|task1|C_{name}")))
        for task in range(3):
            C, at = array(f"chunk1|task{task + 1}|C_{name}"), f"chunk1|thr{share}|fp64|task{task + 1}"
            assert energy_share(float(share), task, 15) == pytest.approx(run["eps"][task], abs=1e-15)
            if name.startswith("att"):
                layer, start = int(name[3]), array("chunk1|A0_q")
                A, wanted = design(M, C, start[layer], "pca_one_sided"), array(f"{at}|init_v1_A_q")[layer]
                assert torch.allclose((A * (A * wanted).sum(1, keepdim=True).sign()), wanted, atol=1e-9), (name, task)
                if task:
                    wanted = array(f"{at}|init_inflora_baseline_A_q")[layer]
                    assert torch.allclose(design(M, C, start[layer], "random"), wanted, atol=1e-9), (name, task)
            M = grow(M, C, energy_share(float(share), task, 15), *rule)
            assert M.shape[1] == run["counts"][task][name], (name, task)
            wanted = array(f"{at}|M_{name}")
            assert torch.allclose(M @ M.t(), wanted @ wanted.t(), atol=1e-9), (name, task)
