"""Errors for a stored configuration that cannot be built: what does not fit, and advice that can be followed."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import StateError
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.stored import build

MODEL = {
    "backbone": {"name": "random-llama"},
    "adapter": {"class_path": "cl_lightning.adapters.SeqLoRA", "init_args": {"rank": 4}},
}


def refused(*place: str, value: Any) -> str:
    node = options = copy.deepcopy(MODEL)
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    with pytest.raises(StateError) as caught:
        build(ContinualLM, options, "model", Path("R/config.yaml"))
    return str(caught.value).removeprefix("R/config.yaml: ")


@pytest.mark.parametrize(
    "name", ["sub.yaml", "cl_lightning.data.UserTasks", "cl_lightning.nowhere", "Evil", "no.where"]
)
def test_allowing_is_not_advised_for_names_that_are_not_user_classes(name: str) -> None:
    assert refused("adapter", "class_path", value=name) == f"names {name}, not a class of this project for that option"


def test_allowing_is_advised_for_importable_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_classes.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_own_classes.Mine", "__main__.Mine"):
        assert f"--allow {name} (in Python: allow=['{name}'])" in refused("adapter", "class_path", value=name)
    assert "my_own_classes" not in sys.modules


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("lr",), "x", "model.lr cannot be x"),
        (("adapter", "init_args", "rank"), "a", "model.adapter.rank cannot be a"),
        (("adapter", "init_args", "rank"), 2**40, "model.adapter.rank cannot be 1099511627776"),
        (("adapter", "init_args", "targets"), {"a": {"b": 1}}, "model.adapter.targets cannot be {'a': {'b': 1}}"),
        (("backbone", "dtype"), "f99", "model.backbone.dtype cannot be f99"),
        (("adapter",), 3, "model.adapter cannot be 3"),
        (("adapter", "init_args", "foo"), 1, "model.adapter has no option 'foo'"),
        (("foo",), 1, "model has no option 'foo'"),
    ],
)
def test_options_that_do_not_fit_are_named(place: tuple[str, ...], value: Any, expected: str) -> None:
    assert refused(*place, value=value) == expected
