"""What tests spare the machine: waiting for the disk, and threads that wait for each other."""

import os

import torch


def _checked(descriptor: int) -> None:
    """Raises where `os.fsync` would for want of a file."""
    os.fstat(descriptor)


def never_wait() -> None:
    """Let `os.fsync` of this process, and of what is forked from it, only look whether there is a file.

    No test can cut the power: what is written need not reach the disk before a run goes on.
    """
    os.fsync = _checked


def one_thread() -> None:
    """Let torch compute in one thread in this process, whatever a run asks for.

    A run takes a thread for each core. Other tests run beside it, so its threads would wait for each other.
    """
    torch.set_num_threads(1)
    torch.set_num_threads = lambda threads: None
