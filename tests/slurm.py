"""A Slurm of this machine for tests: its four commands, as scripts that start, list and end processes."""

from pathlib import Path

COMMANDS = {
    # Prints what the real one does. A job is a process group of its own.
    "sbatch": """
        SLURM_JOB_ID=$$ SLURM_JOB_NAME=job SLURM_JOB_NODELIST=localhost SLURM_NODEID=0 SLURM_NTASKS=1 \\
          SLURM_PROCID=0 SLURM_LOCALID=0 setsid bash "$1" >/dev/null 2>&1 &
        echo $! >"$(dirname "$0")/$$"
        echo "Submitted batch job $$"
    """,
    "srun": """
        while :; do case $1 in --unbuffered) shift ;; --output | --error) shift 2 ;; *) break ;; esac; done
        exec "$@"
    """,
    "sacct": """
        echo 'JobID|State|NodeList'
        for word; do
          pid=$(cat "$(dirname "$0")/$word" 2>/dev/null) || continue
          if kill -0 "$pid" 2>/dev/null; then echo "$word|RUNNING|localhost"; else echo "$word|FAILED|localhost"; fi
        done
    """,
    "scancel": 'kill -TERM -- "-$(cat "$(dirname "$0")/$1")"',
}


def install(folder: Path) -> Path:
    """Write the commands into a folder, which must come first in PATH."""
    folder.mkdir()
    for name, script in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return folder
