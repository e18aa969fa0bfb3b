"""Names of runs and folders that are too long: one line before anything is loaded."""

from pathlib import Path

import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.sequence.settings import SequenceSettings
from tests.commands.test_cli import configs, launch


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--sequence.name=", "sequence.name: has 400 characters; loggers take at most 128"),
        ("--sequence.experiment=", f"sequence.experiment: the name '{'x' * 57}...' has a part of more than 255 bytes"),
        ("--sequence.run_dir=", "sequence.run_dir: a name in it has more than 255 bytes; choose a shorter one"),
    ],
)
def test_it_is_refused(option: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = launch(*configs("smoke"), option + "x" * 400)
    assert (result.code, result.line.startswith(said)) == (2, True), result


def test_a_name_of_the_longest_length_is_taken() -> None:
    SequenceSettings(name="x" * 128)
    with pytest.raises(ConfigError, match="129 characters"):
        SequenceSettings(name="x" * 129)
