"""What a run of many tasks does not compute again after every task."""

import hashlib
from pathlib import Path
from unittest.mock import patch

from cl_lightning.common.files import to_json
from cl_lightning.sequence import record as record_module
from cl_lightning.sequence.record_file import sealed
from tests.sequence.test_thinned_run import data, model, trainer


def test_what_stays_as_it_is_is_computed_once(tmp_path: Path) -> None:
    """Baselines once a task and process, metrics after a task once; the files are those of a run in one go."""
    made, runs = data(3), [trainer(tmp_path / "run"), trainer(tmp_path / "run")]
    with patch.object(record_module, "baseline_items", wraps=record_module.baseline_items) as baselines:
        first = runs[0].fit(model(), made)
    assert baselines.call_count == 3
    kept = {name: (first.folder / name).read_bytes() for name in ("curves.csv", "metrics.json", "matrix.csv")}
    for name in kept:
        (first.folder / name).unlink()
    again = runs[1].fit(model(), data(3))
    assert {name: (again.folder / name).read_bytes() for name in kept} == kept
    assert len(kept["curves.csv"].splitlines()) == 4


def test_a_sealed_record_is_the_record_with_its_checksum() -> None:
    for record in ({"a": 1}, {"a": {"b": [1.5, None, "\u00fc\n"]}, "c": {}, "d": []}, {"checksum": "old", "e": ""}):
        rest = {key: value for key, value in record.items() if key != "checksum"}
        assert sealed(record) == to_json({**rest, "checksum": hashlib.sha256(to_json(rest)).hexdigest()})
