"""YAML as people write it: what is wrong is said in one line, and a key written twice is wrong. No torch here."""

import re
from typing import Any

import yaml

from cl_lightning.common.errors import ConfigError

MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Of a key written twice YAML's own loader silently takes the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # Here, and not where it is constructed: then merge keys ("<<") have put others' keys into the node.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE and (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"{key.value!r} is written twice; which of them counts is not clear", key.start_mark
                )
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that jsonargparse would read as numbers; YAML 1.1 has no number 1e3."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def dump_yaml(value: Any) -> str:
    """Write `value` as YAML that jsonargparse reads back as it was."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str, where: str) -> Any:
    """What `text` writes; `where` names its place. Raises ConfigError: no YAML, or a key twice in one mapping."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        told = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"{where}{line}: not valid YAML ({told})") from None
