"""RunContext: what a callback may ask of a run is one documented class of at most twelve public members."""

import inspect
import re
from pathlib import Path

import pytest

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.sequence.context import RunContext
from tests.contracts.tiny_run import TinyRun

MOST = 12


def attributes(kind: type = RunContext) -> set[str]:
    """Public attributes that the class's code sets on itself."""
    found = set(re.findall(r"\bself\.([a-z]\w*)(?=[^=\n]*=[^=])", inspect.getsource(kind.__init__)))
    return {name for name in found if not hasattr(kind, name)}


def members(kind: type = RunContext) -> set[str]:
    """Public attributes and methods."""
    return attributes(kind) | {name for name in dir(kind) if not name.startswith("_")}


def undocumented(kind: type) -> set[str]:
    """Methods without a docstring, attributes that the class's docstring does not describe."""
    described = set(re.findall(r"^    (\w+):", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE))
    methods = {name for name in members(kind) - attributes(kind) if not inspect.getdoc(getattr(kind, name))}
    return methods | (attributes(kind) - described)


def test_a_callback_may_ask_twelve_things_at_most() -> None:
    assert len(members()) <= MOST, (
        f"RunContext has {len(members())} public members, {MOST} at most: {sorted(members())}"
    )
    assert undocumented(RunContext) == set()


def test_the_members_are_those_of_an_object(tmp_path: Path) -> None:
    context = TinyRun(SeqLoRA(), {}, tmp_path).context
    assert {name for name in vars(context) if not name.startswith("_")} == attributes()


def test_more_members_or_an_undocumented_one_are_seen() -> None:
    class Wider(RunContext):
        """A context with more.

        Attributes:
            module: the model.
        """

        def __init__(self) -> None:
            self.module, self.folder = None, None

        def path(self) -> None: ...

    assert {"folder", "path"} <= members(Wider)
    assert undocumented(Wider) == {"folder", "path"}
    with pytest.raises(AttributeError):
        _ = Wider().order
