"""Errors of jsonargparse in one line each. No torch here."""

import difflib
import re
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from cl_lightning.common import numbers
from cl_lightning.common.errors import ConfigError, unknown_option, user_error_in

UNKNOWN = re.compile(r"unrecognized arguments: --([\w.+-]+)|(?:Group '([\w.]+)' does not accept o|O)ption '([\w.]+)'")
#: Options that take classes of Lightning by their short names, and where these are.
LIGHTNING = {"trainer.callbacks": "lightning.pytorch.callbacks", "trainer.logger": "lightning.pytorch.loggers"}
#: The value in a message on a type of `common.numbers`.
OUTSIDE = re.compile(
    r"Not of type \w+: (?:.*(?:, not|base 10:|to float:) )?'?(.*?)'?(?: does not (?:conform|match regular).*)?$"
)
#: An option inside a value of a dictionary, which a command line gives as a whole.
INSIDE = re.compile(r"NestedArg\(key='(.+)\.(\w+)', val='(.*)'\)")
#: What is wrong with an option of a class, among the reasons why no type of the option fits.
OF_A_CLASS = re.compile(r"^ +- ([A-Z]\w*\.[\w.]+: .+)", re.MULTILINE)
#: Patterns of jsonargparse's messages, and what an error says instead.
PLAIN = {
    r"Expected a path but .*\n": "",  # any value could be the path of a file of values
    r"<class '(?:\w+\.)*(\w+)'>": r"\1",
    r"typing.Literal\[(.*)\]": lambda found: found[1].replace(", ", " or "),
    "NoneType": "null",
    "dot import path.*": "class name",
}


def misfit(message: str) -> str | None:
    """Say why no object of an option's class could be built, in one line; None for other messages."""
    if not message.startswith("Does not validate against any of the Union subtypes"):
        return None
    value = re.search(r"Given value: (.*)", message)
    reasons = re.findall(
        r"^  - +(?:Problem with given class_path )?((?!Expected a|Not a valid).*(?:\n {4,}.*)*)", message, re.M
    )
    name = re.search(r"class_path='([\w.]+)'", value[1]) if value else None
    why = " ".join(" ".join(reasons).split()) or "no such value"
    return f"{name[1].rpartition('.')[2] if name else 'an option'} cannot be built: {why}"


class OptionParser(ArgumentParser):
    """An ArgumentParser whose errors are ConfigErrors: one line, with the nearest valid names.

    jsonargparse makes another one for the options of each class that an option names.

    Args:
        main: whether this is the parser of a command, and not that of a class.
    """

    def __init__(self, *args: Any, main: bool = False, **kwargs: Any) -> None:
        self._main = main
        super().__init__(*args, **kwargs)

    def validate(self, namespace: Any, skip_unset: bool = True, **kwargs: Any) -> None:
        """See the base class, which lets null pass for any option of a class."""
        super().validate(namespace, skip_unset=skip_unset and self._main, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the UserError that `ex` wraps, or else a ConfigError that says what `message` does."""
        raise user_error_in(ex) or ConfigError(self._one_line(message)) from None

    def _one_line(self, message: str) -> str:
        owner = "" if self._main else "".join(f"{group}." for group in list(self.groups or ())[:1])  # as "SliceInit."
        if found := UNKNOWN.search(message):
            return self._unknown(owner, ".".join(filter(None, found.groups())))
        for pattern, plain in PLAIN.items():
            message = re.sub(pattern, plain, message)
        message = re.sub(r'^Parser key "([\w.+]+)":', lambda key: f"{owner}{key[1]}:", message)
        where = message.split(":", 1)[0]
        if found := re.search(r"Problem with given class_path '([^']*)':\s*(.+)", message):
            return f"{where}: no class {found[1]!r} ({found[2]})"
        if found := OF_A_CLASS.search(message):
            return found[1]
        if found := INSIDE.search(message):
            key, name, value = found.groups()
            return f"{where}.{key}: its options are given together: --{where}.{key}='{{{name}: {value}}}'"
        wanted = [_kind(*found) for found in re.findall(r"Not of type (\w+): (.*)", message)]
        if found := re.search(r"(?:Got|Given) value: (.*)", message) or OUTSIDE.search(message):
            kinds = wanted + re.findall(
                r"(?:Expected an?|Not a valid) (.+?)(?:\. Got value.*)?$", message, re.MULTILINE
            )
            if found[1] == "None":
                return f"{where}: is null or left out; give it a value ({' or '.join(dict.fromkeys(kinds))})"
            off = " (YAML reads a bare off as False: quote it)" if found[1] == "False" and "'off'" in message else ""
            hint = _nearest_of_lightning(where, found[1])
            return f"{where}: expected {' or '.join(dict.fromkeys(kinds))}, not {found[1]!r}{off}{hint}"
        text = " ".join(filter(None, (line.strip(" -") for line in message.splitlines())))
        return text if text.startswith(owner) else f"{owner[:-1]}: {text}"

    def _unknown(self, owner: str, name: str) -> str:
        """Report an unknown option, with the valid names in its group."""
        if name.endswith("+"):
            return f"{owner}{name}: += adds to lists only; write {owner}{name[:-1]}=VALUE"
        group, dot, _ = name.rpartition(".")
        options = self.get_defaults(skip_validation=True).keys()
        beside = {o.removeprefix(group + dot).split(".")[0] for o in options if o.startswith(group + dot)}
        return unknown_option(f"{owner}{name}", beside)


def _nearest_of_lightning(option: str, name: str) -> str:
    """Name the class of Lightning that was meant, as the end of a message; "" for other options."""
    home = LIGHTNING.get(option.removesuffix("+"))
    if home is None or not name.isidentifier():
        return ""
    close = difflib.get_close_matches(name, import_module(home).__all__, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else "; a class of your own needs its whole name, as package.Class"


def _kind(name: str, why: str) -> str:
    """Describe a type of `common.numbers`: its range to a number outside of it, its base to anything else."""
    kind = getattr(numbers, name, None)
    if kind is None:  # a type of jsonargparse's own, as Path
        return name
    return (
        kind.__doc__
        if "does not conform" in why or issubclass(kind, str)
        else next(base.__name__ for base in (int, float) if issubclass(kind, base))
    )
