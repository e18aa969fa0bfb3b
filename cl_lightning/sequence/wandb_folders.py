"""Gives wandb folders to write to where the home folder cannot be written to."""

import os
from pathlib import Path

from platformdirs import user_cache_dir, user_config_dir, user_data_dir

#: wandb's variables, and the folders that it takes otherwise.
USUAL = {"WANDB_DATA_DIR": user_data_dir, "WANDB_CACHE_DIR": user_cache_dir, "WANDB_CONFIG_DIR": user_config_dir}


def choose_folders(folder: Path) -> None:
    """Let wandb use `folder` for what it cannot write where it usually does. Call before its first run."""
    for variable, usual in USUAL.items():
        if variable not in os.environ and not _writable(Path(usual("wandb"))):
            os.environ[variable] = str(folder)


def _writable(folder: Path) -> bool:
    """Make the folder, as wandb would, and return whether files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
