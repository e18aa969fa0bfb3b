"""Runs the benchmarks one after the other, or against an earlier commit.

    python benchmarks [NAME ...] [--quick] [options of the benchmarks]
    python benchmarks --with COMMIT [NAME ...] [--times 3] [options of the benchmarks]

Prints one table of all ratios. Without --quick it also adds a line for each benchmark to results/<machine>.jsonl, with
the commit, so that progress is a curve. With --with, both commits run in turn, and a ratio is called worse where it is
worse every time now than it ever was then. Exit code 1: a benchmark failed, or a ratio is worse.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
ROW = "{:<16}{:<42}{:>10}  {}"

Result = dict[str, Any]


def scripts(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the benchmarks in a folder, or those of these names. Raises SystemExit for an unknown name."""
    found = {path.stem: path for path in sorted(folder.glob("[a-z]*.py"))}
    if unknown := [name for name in names if name not in found]:
        raise SystemExit(f"error: no benchmark {unknown[0]!r}; valid: {', '.join(found)}")
    return [found[name] for name in names or found]


def run(script: Path, options: Sequence[str]) -> Result | None:
    """Run a benchmark of the checkout that it is in; its result, or None if it failed."""
    root = script.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        command = [sys.executable, str(script), f"--json={file}", *options]
        done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
        return None if done.returncode or not file.is_file() else json.loads(file.read_text(encoding="utf-8"))


def commit(root: Path) -> str:
    """Name the commit that is checked out; with + if files differ from it."""
    described = ["git", "-C", str(root), "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+"]
    return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()


def machine_file(machine: str) -> str:
    """Name a file after the processor or GPU of a result."""
    device = re.split(r", load|;", machine)[0]
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".jsonl"


def record(result: Result, at: str, folder: Path) -> None:
    """Add a result to the machine's file."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"commit": at, "date": date.today().isoformat(), **result})
    with (folder / machine_file(result["machine"])).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def run_all(chosen: Sequence[Path], options: Sequence[str], results: Path) -> int:
    """Run benchmarks, print the table, and record what is no quick run."""
    rows, failed = [], []
    for script in chosen:
        print(f"== {script.stem}", flush=True)
        result = run(script, options)
        if result is None:
            failed.append(script.stem)
            continue
        rows += [ROW.format(script.stem, name, f"{value:.2f}x", "") for name, value in result["ratios"].items()]
        if "--quick" not in options:
            record(result, commit(ROOT), results)
    print("\n".join(["", ROW.format("benchmark", "ratio", "", ""), *rows]))
    for name in failed:
        print(f"{name} failed; its output is above")
    return bool(failed)


def compare(earlier: str, names: Sequence[str], times: int, options: Sequence[str]) -> int:
    """Run the benchmarks of this checkout and of an earlier commit in turn, and print what differs."""
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    less: set[tuple[str, str]] = set()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        then = Path(folder, "then")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(then), earlier], check=True)
        try:
            chosen = [script for script in scripts(HERE, names) if (then / "benchmarks" / script.name).is_file()]
            for number in range(times):
                for script in chosen:
                    for side, place in enumerate((then / "benchmarks", HERE)):
                        print(f"== {script.stem}, {('then', 'now')[side]}, {number + 1} of {times}", flush=True)
                        result = run(place / script.name, options)
                        if result is None:
                            failed = True
                            continue
                        less |= {(script.stem, name) for name in result.get("less_is_better", ())}
                        for name, value in result["ratios"].items():
                            found.setdefault((script.stem, name), ([], []))[side].append(value)
        finally:
            subprocess.run([*git, "remove", "--force", str(then)], check=True)
    verdicts = {key: verdict(*sides, key in less) for key, sides in found.items()}
    print("\n" + ROW.format("benchmark", "ratio", "then", "now"))
    for (script_name, name), (before, after) in found.items():
        now = f"{_span(after):<14}{verdicts[script_name, name]}"
        print(ROW.format(script_name, name, _span(before), now))
    return failed or "worse" in verdicts.values()


def verdict(then: Sequence[float], now: Sequence[float], less_is_better: bool) -> str:
    """Say "worse" or "better" where the ratios of the two commits, two or more of each, do not overlap."""
    if min(len(then), len(now)) < 2:
        return ""
    lower, higher = max(now) < min(then), min(now) > max(then)
    return "worse" if (higher if less_is_better else lower) else "better" if lower or higher else ""


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}" if values else "-"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(s.stem for s in scripts(HERE, []))}")
    parser.add_argument("--with", dest="earlier", metavar="COMMIT", help="compare with this commit")
    parser.add_argument("--times", type=int, default=3, help="runs of each commit (3)")
    arguments, options = parser.parse_known_args(argv)
    if arguments.earlier is None:
        return run_all(scripts(HERE, arguments.names), options, RESULTS)
    return compare(arguments.earlier, arguments.names, arguments.times, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
