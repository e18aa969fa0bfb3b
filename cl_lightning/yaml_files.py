"""YAML as people write it: what is wrong is said in one line, and a key written twice is wrong. No torch here."""

from typing import Any

import yaml

from cl_lightning.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Of a key written twice YAML's own loader silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is written twice; which of them counts is not clear", key.start_mark
                )
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """What `text` writes; `where` names its place. Raises ConfigError: no YAML, or a key twice in one mapping."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
