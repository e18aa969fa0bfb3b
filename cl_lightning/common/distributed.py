"""Collectives that reduce to the identity in a single process."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from cl_lightning.common.errors import TrainingError, UserError

#: Signs in the errors of gloo, which have no class of their own, that another process has ended.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")

Item = TypeVar("Item")
Made = TypeVar("Made")


def initialized() -> bool:
    """Return whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's rank; before the process group exists, the one its launcher assigned."""
    return dist.get_rank() if initialized() else rank_zero_only.rank or 0


def local_rank() -> int:
    """Return this process's rank on its machine, as assigned by its launcher (Lightning, torchrun, SLURM)."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if initialized() else 1


def sum_(tensor: Tensor) -> Tensor:
    """Sum `tensor` over ranks, in place."""
    if initialized():
        dist.all_reduce(tensor)
    return tensor


def broadcast_(tensor: Tensor, source: int) -> Tensor:
    """Overwrite `tensor` with the values of rank `source`, in place."""
    if initialized():
        dist.broadcast(tensor, source)
    return tensor


def gather(value: Any) -> list[Any]:
    """Return the picklable values of all ranks, in rank order, on every rank."""
    if not initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def deal(
    items: Iterable[tuple[str, Item]], work: Callable[[str, Item], Made], what: str, advice: str = ""
) -> tuple[dict[str, Made], dict[str, int]]:
    """Distribute `items` over the ranks round-robin and run `work(name, item)` for each on its own rank.

    All ranks must iterate over the same items. Results are not communicated: broadcast them afterwards, since a
    broadcast in between would make each rank wait for the others' work.

    Returns:
        This rank's results by name, and the rank that holds each result.

    Raises:
        TrainingError: on all ranks, for the first ValueError or LinAlgError on any of them, as
            "`what` NAME: ...`advice`".
    """
    made: dict[str, Made] = {}
    owners: dict[str, int] = {}
    fault: str | None = None
    for index, (name, item) in enumerate(items):
        owners[name] = index % world_size()
        if owners[name] == rank():
            try:
                made[name] = work(name, item)
            except (ValueError, torch.linalg.LinAlgError) as error:
                fault = fault or f"{what} {name}: {error}{advice}"
    if found := next(filter(None, gather(fault)), None):
        raise TrainingError(found)
    return made, owners


def on_main(action: Callable[[], None]) -> None:
    """Run `action` on rank 0. If it fails, all ranks stop with the same error instead of waiting for rank 0.

    Raises:
        TrainingError: the UserError of rank 0, on every rank.
    """
    message: str | None = None
    if rank() == 0:
        try:
            action()
        except UserError as error:
            message = str(error)
        except Exception as error:
            gather(f"{type(error).__name__}: {error}")  # release the other ranks first
            raise
    message = gather(message)[0]
    if message is not None:
        raise TrainingError(message)


def assert_in_sync(tensors: Iterable[Tensor], what: str) -> None:
    """Check that all ranks hold bitwise equal tensors.

    Raises:
        RuntimeError: they differ, which is a defect of this package and never a user error.
    """
    if world_size() == 1:
        return
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    if len(set(gather(digest.hexdigest()))) != 1:
        raise RuntimeError(f"the ranks hold different {what}")


@contextmanager
def lost_ranks(advice: str) -> Iterator[None]:
    """Raise what a collective raises after another rank has ended as one line.

    Raises:
        TrainingError: the connection to a rank is lost, and not because this one failed.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if world_size() == 1 or not (isinstance(error, dist.DistError) or any(sign in text for sign in LOST)):
            raise
        lost = TrainingError(f"another rank has ended, so rank {rank()} cannot go on; {advice}")
        lost.of_one_rank = True  # rank 0 may be the one that has ended
        raise lost from error
