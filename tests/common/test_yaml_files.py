"""YAML files: merge keys are allowed, duplicate keys refused."""

import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.yaml_files import parse_yaml


def test_merge_keys_are_not_duplicates() -> None:
    text = "a: &a {x: 0, y: 2}\nb: &b\n  <<: *a\n  x: 1\nc:\n  <<: *b\n  x: 3\n"
    assert parse_yaml(text, "f.yaml")["c"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: 1\nb: {c: 1, d: 2, c: 3}\n",
            r"f.yaml, line 2: not valid YAML ('c' is given twice; remove one)",
        ),
        (
            "- {a: 1}\n- {1: a, 1: b}\n",
            "f.yaml, line 2: not valid YAML ('1' is given twice; remove one)",
        ),
        ("a: [1\n", "f.yaml, line 2: not valid YAML (expected ',' or ']', but got '<stream end>')"),
        ("a: 2024-13-45\n", "f.yaml: not valid YAML (month must be in 1..12)"),
    ],
)
def test_errors_are_one_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value) == expected


def test_a_control_character_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^f\.yaml: not valid YAML [^\n]*$"):
        parse_yaml("a: \x07\n", "f.yaml")


def bomb(levels: int) -> str:
    """Lists of ten aliases to the list before: 10^levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)])


def test_aliases_that_expand_to_billions_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^f\.yaml, line 1: not valid YAML \(its aliases expand to more than 1,000,000"
    ):
        parse_yaml(bomb(30), "f.yaml")
    assert len(parse_yaml(bomb(4), "f.yaml")["a3"]) == 10


def test_an_alias_to_itself_is_counted_once() -> None:
    content = parse_yaml("a: &a [*a, 1]", "f.yaml")["a"]
    assert content[0] is content
