"""Compare published claims with the study's findings: confirmed, refuted, not shown, or untested."""

from dataclasses import dataclass
from pathlib import Path

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.metrics.matrix import FUNCTIONS
from cl_lightning.study.statistics import Estimated, Findings

FILE = "claims.yaml"
KEYS = {"claim", "source", "method", "against", "metric", "expected"}
#: What a claim says of the metric of its method: it is above or below that of the other.
EXPECTED = {"higher": 1, "lower": -1}


@dataclass(frozen=True)
class Claim:
    """One published claim. `against`: the method that it is compared with; None: the claim cannot be tested here."""

    claim: str
    source: str
    method: str | None = None
    against: str | None = None
    metric: str | None = None
    expected: str | None = None


def read_claims(folder: Path, methods: tuple[str, ...]) -> list[Claim]:
    """Read the claims of a study's folder; [] without the file. Raises ConfigError for a malformed one."""
    file = folder / FILE
    if not file.is_file():
        return []
    content = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(content, list):
        raise ConfigError(f"{file}: must be a list of claims")
    claims = []
    for number, entry in enumerate(content, 1):
        where = f"{file}: claim {number}"
        if not isinstance(entry, dict) or not {"claim", "source"} <= entry.keys() <= KEYS:
            raise ConfigError(f"{where}: expected {', '.join(sorted(KEYS))}; only claim and source alone if untestable")
        if len(entry) not in (2, len(KEYS)):
            raise ConfigError(f"{where}: lacks {', '.join(sorted(KEYS - entry.keys()))}")
        for key, valid in (("method", methods), ("against", methods), ("metric", FUNCTIONS), ("expected", EXPECTED)):
            if key in entry and entry[key] not in valid:
                raise ConfigError(f"{where}: {key}: no {entry[key]!r}; {nearest(str(entry[key]), valid)}")
        claims.append(Claim(**entry))
    return claims


def verdicts(claim: Claim, findings: Findings) -> list[tuple[str, str, Estimated | None]]:
    """Return (sequence, verdict, difference) for each sequence with rows of both methods; one entry without any.

    The development sequence does not count, because learning rates were chosen on it.
    """
    if claim.method is None or claim.against is None or claim.metric is None or claim.expected is None:
        return [("", "untested: not in this grid", None)]
    found = []
    for sequence in findings.grid.sequences:
        if sequence != findings.grid.development:
            difference = findings.difference(claim.method, claim.against, sequence, claim.metric)
            if difference is not None:
                found.append((sequence, _verdict(difference, EXPECTED[claim.expected]), difference))
    return found or [("", "untested: no cells yet", None)]


def _verdict(difference: Estimated, sign: int) -> str:
    low, high = sorted(sign * end for end in difference.interval)
    return "confirmed" if low > 0 else "refuted" if high < 0 else "no difference shown"
