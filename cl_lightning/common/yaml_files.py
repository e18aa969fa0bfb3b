"""YAML with one-line errors, in which a duplicate key is an error. No torch here."""

import re
from enum import Enum
from typing import Any

import yaml

from cl_lightning.common.errors import ConfigError

MERGE = "tag:yaml.org,2002:merge"
#: Largest number of values in a document with its aliases expanded. A few lines of nested aliases can mean billions.
MOST_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but duplicate keys (of which it takes the last) and alias bombs are errors."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise yaml.composer.ComposerError(
                None, None, f"its aliases expand to more than {MOST_VALUES:,} values", node.start_mark
            )
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # Checked here because construction expands merge keys ("<<") into the node.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE and (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"{key.value!r} is given twice; remove one", key.start_mark
                )
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return node


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node with its aliases expanded; `known` has the counts so far, by id."""
    if id(node) not in known:
        known[id(node)] = 0  # while it is counted: an alias to itself adds nothing
        content = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for item in content for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that jsonargparse would read as numbers; YAML 1.1 has no number 1e3."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


def dump_yaml(value: Any) -> str:
    """Write `value` as YAML that jsonargparse reads back as it was."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; `where` names its source in errors. Raises ConfigError: invalid YAML or a duplicate key."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"{where}{line}: not valid YAML ({problem})") from None
