"""Say which code a cell was run with, and on what kind of machine. No torch here."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

#: Vector instructions of CPUs, best first: they decide how fast numbers are multiplied.
VECTORS = ("amx_tile", "avx512f", "avx2")


def gpu() -> str | None:
    """Return the name of the first NVIDIA GPU that torch can use, None without one."""
    if version("torch").endswith("+cpu"):
        return None
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    names = found.stdout.splitlines()
    return names[0].strip() if found.returncode == 0 and names else None


def machine_kind() -> str:
    """Describe the machine in a few words: its GPU or, without one, its CPU, vector instructions and cores."""
    if (name := gpu()) is not None:
        return name
    facts = _cpu_facts()
    flags = facts.get("flags", "").split()
    vector = next((name for name in VECTORS if name in flags), platform.machine())
    model = " ".join(facts.get("model name", platform.processor() or "CPU").split())
    return f"{model}, {vector}, {os.cpu_count()} cores"


def _cpu_facts() -> dict[str, str]:
    """Read the first processor's entry in /proc/cpuinfo; {} where there is none."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    lines = file.read_text().partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def commit() -> str:
    """Return the commit of this code, with + if files were changed since; in an installed package, its version."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return version("cl-lightning")
    if head.returncode:
        return version("cl-lightning")
    changed = subprocess.run(
        ["git", "-C", str(here.parents[1]), "status", "--porcelain", "--untracked-files=no", "--", *COUNTED],
        capture_output=True,
        text=True,
        check=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout else "")


#: Folders whose changes may change results.
COUNTED = ("cl_lightning", "callbacks", "experiments")
