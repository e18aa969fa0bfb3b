"""Leaves out what wandb prints about itself. Its warnings and errors, and the address of an online run, are printed."""

import os

from lightning.pytorch.loggers import WandbLogger


def without_notices(logger: WandbLogger, mode: str) -> None:
    """Keep wandb from printing notices. `mode`: as `sequence.wandb`. Call before the logger's run begins."""
    # Lightning passes this setting, without effect, and wandb warns of it.
    logger._wandb_init.pop("anonymous", None)
    if mode == "offline":
        os.environ.setdefault("WANDB_SHOW_INFO", "false")
        os.environ.setdefault("WANDB_QUIET", "true")
