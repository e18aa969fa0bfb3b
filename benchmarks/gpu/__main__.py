"""Everything in its GPU form, by one command: the tests marked `gpu`, then measurements against the usual alternatives.

    make gpu                                     # a GPU, under 10 minutes, no network
    make gpu ARGS='--device=cpu --tiny'          # does it run, not how fast
    make gpu ARGS='--only step boundary --out=FILE'

Prints a table, and writes all figures as JSON. Ends with 1 if a part failed.
"""

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parts import NAMES, PARTS, ROOT, Part, run

RESULTS = ROOT / "benchmarks" / "results"
#: Below this many seconds no part is begun.
LEAST = 10
PEAK = Part("peak", "", 60)
ROW = "{:<30}{:<15}{:>11}{:>8}{:>9}{:>7}"


def main() -> int:
    arguments = options()
    begun = time.monotonic()
    peak = run(PEAK, arguments.device, arguments.tiny, PEAK.limit)
    if peak["status"] == "failed":
        print(f"error: the device could not be measured: {peak['error']}", file=sys.stderr)
        return 1
    if peak["device"] != arguments.device:
        print("error: PyTorch sees no GPU here; ARGS='--device=cpu --tiny' tries everything in small", file=sys.stderr)
        return 2
    result = {"machine": peak["machine"], "tiny": arguments.tiny, "peak": peak, "parts": {}}
    file = arguments.out or RESULTS / f"{short_name(peak)}.json"
    print(f"{peak['machine']}\npeak {peak['flops_per_s'] / 1e12:.3g} TFLOP/s (measured, {peak['dtype']})")
    print(ROW.format("", "", "tokens/s", "peer", "of peak", "GiB"))
    wanted = [p for p in PARTS if p.name in arguments.only and (p.tiny or not arguments.tiny)]
    for part in wanted:
        left = arguments.budget - (time.monotonic() - begun)
        found = outcome(part, arguments, left)
        add_shares(found, peak["flops_per_s"])
        result["parts"][part.key] = found
        result["seconds"] = round(time.monotonic() - begun, 1)
        write(file, result)
        print("\n".join(rows(part, found)), flush=True)
    states = [found["status"] for found in result["parts"].values()]
    print(f"{result['seconds']:.0f} s; {', '.join(f'{states.count(s)} {s}' for s in sorted(set(states)))}; {file}")
    return 1 if "failed" in states else 0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models, few steps: does it run, not how fast")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/<machine>.json")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="PART", help=", ".join(NAMES))
    parser.add_argument(
        "--budget", type=float, default=570, metavar="SECONDS", help="parts that no longer fit are left out (570)"
    )
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device=cpu needs --tiny: models of real shapes are too large for it")
    return arguments


def outcome(part: Part, arguments: argparse.Namespace, left: float) -> dict[str, Any]:
    """Run a part, or say why it was left out."""
    if part.missing:
        return {"status": "left out", "error": part.missing}
    if left < LEAST:
        return {"status": "left out", "error": f"no time left of {arguments.budget:.0f} s"}
    return run(part, arguments.device, arguments.tiny, min(part.limit, left))


def add_shares(found: dict[str, Any], peak: float) -> None:
    """Add `share_of_peak` (MFU) wherever the work is known."""
    for side in sides(found).values():
        if "flops_per_s" in side:
            side["share_of_peak"] = side["flops_per_s"] / peak


def sides(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: side for name, side in found.items() if isinstance(side, dict)}


def rows(part: Part, found: dict[str, Any]) -> Iterator[str]:
    """Lay out a part's lines, at most 80 columns wide."""
    measured = sides(found)
    reference = measured.get("peer", {}).get("tokens_per_s")
    for name, side in measured.items():
        if "tokens_per_s" in side:
            ratio = f"{side['tokens_per_s'] / reference:.2f}x" if reference else ""
            share = f"{100 * side['share_of_peak']:.1f} %" if "share_of_peak" in side else ""
            yield ROW.format(part.key, name, f"{side['tokens_per_s']:.0f}", ratio, share, f"{side['peak_gib']:.1f}")
        else:
            figures = "  ".join(f"{key} {value:.2f}" for key, value in side.items() if isinstance(value, float))
            yield f"{part.key:<30}{name}: {figures}"[:80]
    if "tests" in found:
        failed, skipped = len(found["failed_tests"]), len(found["skipped_tests"])
        yield f"{part.key:<30}{found['tests'] - failed - skipped} passed, {failed} failed, {skipped} skipped"
        yield from (f"  failed: {name}"[:80] for name in found["failed_tests"])
    if found["status"] != "ok":
        yield f"{part.key:<30}{found['status']}: {found['error']}"[:80]


def short_name(peak: dict[str, Any]) -> str:
    """Name the machine by its device and its host, for a file."""
    device = re.split(r"[,;]", peak["machine"])[0]
    return re.sub(r"[^\w.-]+", "_", f"{device}_{platform.node()}").strip("_")


def write(file: Path, result: dict[str, Any]) -> None:
    """Write beside the file, then rename: it is whole at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)


if __name__ == "__main__":
    sys.exit(main())
