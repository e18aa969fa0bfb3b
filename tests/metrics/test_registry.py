"""The metrics by name."""

import subprocess
import sys

HEAVY = "print([name for name in ('nltk', 'sklearn', 'torch') if name in sys.modules])"


def imported(code: str) -> str:
    """The heavy packages that `code` imports in a new process."""
    command = [sys.executable, "-c", f"import sys\nfrom cl_lightning.metrics.registry import METRICS\n{code}\n{HEAVY}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_metrics_are_known_without_the_packages_that_some_need() -> None:
    assert imported("assert 'rouge_l' in METRICS") == "[]"
    assert "nltk" in imported("METRICS['rouge_l'](['a b'], ['a c'], [''])"), "control: a score imports it"
