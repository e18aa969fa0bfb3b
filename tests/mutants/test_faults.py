"""The list of faults follows the code; `make mutants` plants them."""

import shlex

import pytest

from tests.conftest import ROOT
from tests.mutants.faults import FAULTS
from tests.mutants.faults.fault import Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_can_be_planted(fault: Fault) -> None:
    assert fault.right in (ROOT / fault.file).read_text()
    assert fault.right != fault.wrong
    files = [word for word in shlex.split(fault.tests) if word.startswith("tests/")]
    assert files and all((ROOT / file).exists() for file in files)


def test_names_of_faults_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
