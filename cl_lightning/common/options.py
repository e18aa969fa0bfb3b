"""Names options of a configuration: flattened, for loggers, and in a few words, for people."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Options = dict[str, Any]
#: Longest label of options, and longest value in one.
LABEL, VALUE = 60, 20
#: Options that say where and how a run is logged, or which files it was given.
UNLOGGED = ("config", "trainer.logger")


def flat(options: Mapping[str, Any], prefix: str = "") -> Options:
    """Flatten nested options to {"a.b": value}, without nulls; the level `init_args` is left out.

    Example:
        >>> flat({"a": {"b": 1, "init_args": {"c": 2}}, "d": None})
        {'a.b': 1, 'a.c': 2}
    """
    found: Options = {}
    for key, value in options.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            found |= flat(value, name)
        elif value is not None:
            found[name] = value
    return found


def hyperparameters(config: Mapping[str, Any]) -> Options:
    """Flatten a configuration for loggers. Classes are named shortly, lists are text.

    Example:
        >>> hyperparameters({"a": {"class_path": "m.Big", "init_args": {"b": [1, 2]}}})
        {'a': 'Big', 'a.b': '1, 2'}
    """
    found = {}
    for name, value in flat(config).items():
        if not _is_below(name, UNLOGGED):
            found[name.removesuffix(".class_path")] = _short_class(name, value)
    return {name: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in found.items()}


def label(options: Mapping[str, Any]) -> str:
    """Name options in at most LABEL characters: as many as fit, and the number of the others.

    Example:
        >>> label({"boundary.init.initializer.class_path": "cl_lightning.LoRAGA", "model.lr": 0.0003})
        'initializer=LoRAGA lr=3e-4'
    """
    named = {name.removesuffix(".class_path"): _short_class(name, value) for name, value in options.items()}
    last = Counter(name.rpartition(".")[2] for name in named)
    words = [
        f"{'.'.join(name.split('.')[-1 if last[name.rpartition('.')[2]] == 1 else -2 :])}={_value(value)}"
        for name, value in named.items()
    ]
    for count in range(len(words), 0, -1):
        more = [f"+{len(words) - count} more"] if count < len(words) else []
        if len(text := " ".join([*words[:count], *more])) <= LABEL:
            return text
    return f"{len(words)} options" if words else ""


def _is_below(name: str, others: Iterable[str]) -> bool:
    """Whether an option is one of `others`, or below one."""
    return any(name == other or name.startswith(f"{other}.") for other in others)


def _short_class(name: str, value: Any) -> Any:
    return str(value).rpartition(".")[2] if name.endswith(".class_path") else value


def _value(value: Any) -> str:
    """Write a value shortly: 0.0003 as 3e-4."""
    if isinstance(value, Mapping) and "class_path" in value:
        value = str(value["class_path"]).rpartition(".")[2]
    text = f"[{','.join(map(_value, value))}]" if isinstance(value, list) else str("null" if value is None else value)
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        power = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if exponent else text
        text = min(f"{value:.6g}", power, key=len)
    text = text.replace(" ", "")
    return text if len(text) <= VALUE else f"{text[: VALUE - 1]}…"
