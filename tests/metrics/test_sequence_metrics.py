"""The torchmetrics objects: equal to the matrix functions, from partial updates, on one process and on two ranks."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cl_lightning.metrics.matrix import CONVENTIONS, summary
from cl_lightning.metrics.sequence_metrics import ZERO_SHOT, SequenceMetric, sequence_metrics
from tests.launch import on_two_ranks

SINGLE = [62.0, 48.0, 88.0]
SAMPLES = 7  # an odd number, so that two ranks have unequal shares


def cells() -> dict[tuple[int, int], torch.Tensor]:
    """Scores of every test example, for all rows and the zero-shot one."""
    rng = torch.Generator().manual_seed(3)
    return {
        (i, j): torch.randint(0, 101, (SAMPLES - j,), generator=rng).double() for i in range(-1, 3) for j in range(3)
    }


def expected() -> dict[str, float | None]:
    means = {cell: float(scores.mean()) for cell, scores in cells().items()}
    R = [[means[i, j] for j in range(3)] for i in range(3)]
    return summary(R, [means[-1, j] for j in range(3)], SINGLE)


def test_every_metric_equals_its_function() -> None:
    metrics = sequence_metrics(3, CONVENTIONS, SINGLE)
    for (i, j), scores in cells().items():
        metrics.update(i, j, scores[:2])
        metrics.update(i, j, scores[2:])
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found.keys() == CONVENTIONS.keys()
    assert found == pytest.approx(expected(), abs=1e-12)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = sequence_metrics(3, CONVENTIONS, SINGLE)
    for (i, j), scores in cells().items():
        metrics.update(i, j, scores[rank::2])
    alone = metrics["bwt"].matrix()
    values = {name: float(value) for name, value in metrics.compute().items()}
    torch.save((values, alone), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_unequal_shares_equal_one(tmp_path: Path) -> None:
    on_two_ranks(_rank, str(tmp_path))
    (values, alone), (others, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert values == others == pytest.approx(expected(), abs=1e-12)
    # the mean of the ranks' values differs: sums must be reduced, not means
    assert abs(summary(alone)["ap"] - expected()["ap"]) > 0.1


def test_in_the_middle_of_a_sequence_and_from_means() -> None:
    metric, last = SequenceMetric("bwt", tasks=5), SequenceMetric("fp", tasks=5)
    with pytest.raises(ValueError, match="empty"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()
    for each in (metric, last):
        each.update(0, 0, 80.0)
        each.update(1, 0, 50.0)
    with pytest.raises(ValueError, match=r"\(row 1, column 1\) is missing"):
        last.compute()
    metric.update(1, 1, 70.0)
    assert metric.compute() == -30.0
    metric.reset()
    with pytest.raises(ValueError, match="empty"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()


def test_undefined_or_unknown_metrics_raise() -> None:
    metric = SequenceMetric("bwt", tasks=2)
    metric.update(0, 0, torch.tensor([80.0]))
    with pytest.raises(ValueError, match="bwt is undefined"):
        metric.compute()
    with pytest.raises(ValueError, match=r"row 2, column 0.*2 tasks"):
        metric.update(2, 0, 1.0)
    with pytest.raises(ValueError, match="column -1"):
        metric.update(0, -1, 1.0)
    with pytest.raises(ValueError, match="did you mean f_ra"):
        SequenceMetric("fra", tasks=2)
    with pytest.raises(ValueError, match="1 or more"):
        SequenceMetric("ap", tasks=0)


def test_the_zero_shot_row_is_not_the_last_task() -> None:
    metric = SequenceMetric("fwt_gem", tasks=2)
    for i, j, score in [(ZERO_SHOT, 0, 10.0), (ZERO_SHOT, 1, 20.0), (0, 0, 90.0), (0, 1, 25.0)]:
        metric.update(i, j, score)
    assert metric.matrix() == [[90.0, 25.0]]
    metric.update(1, 1, 85.0)
    assert metric.compute() == 5.0, "the cell below the diagonal is not needed"


@pytest.mark.parametrize(("name", "wanted"), [("ap", 70.0), ("fp", 55.0), ("bwt", -22.5), ("forget_T", 15.0)])
def test_metrics_need_only_the_cells_of_their_formula(name: str, wanted: float) -> None:
    """As published for three tasks and more, without the cells in between."""
    metric = SequenceMetric(name, tasks=3)
    for row, column, score in ((0, 0, 80.0), (1, 1, 60.0), (2, 2, 70.0), (2, 0, 50.0), (2, 1, 45.0)):
        metric.update(row, column, score)
    assert float(metric.compute()) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="missing"):
        full = SequenceMetric("aaa", tasks=3)
        full.update(0, 0, 80.0)
        full.update(2, 2, 70.0)
        full.compute()


@pytest.mark.parametrize("name", ["fwt_sapt", "intransigence"])
def test_referenced_metrics_need_only_the_diagonal(name: str) -> None:
    metric, without = SequenceMetric(name, tasks=2, single=[90.0, 80.0]), SequenceMetric(name, tasks=2)
    for each in (metric, without):
        each.update(0, 0, 50.0)
        each.update(1, 1, 70.0)
    assert abs(float(metric.compute())) == 25.0
    with pytest.raises(ValueError, match="of task 0 is missing"):
        without.compute()


def test_per_task_forgetting_is_a_vector() -> None:
    metric = SequenceMetric("per_task_forgetting", tasks=3)
    for row, column, score in ((0, 0, 80.0), (1, 0, 50.0), (1, 1, 70.0)):
        metric.update(row, column, score)
    assert metric.compute().tolist() == [30.0, 0.0], "of the tasks trained so far"
