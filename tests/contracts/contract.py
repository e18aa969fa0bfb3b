"""What the contract suites share: find the extensions, hold them to clauses, say what is missing and where to look."""

import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from cl_lightning.common.errors import UserError
from tests.conftest import ROOT

Clause = Callable[[Any], None]

#: No option of ours means anything at these.
NONSENSE: dict[type, tuple[Any, ...]] = {int: (-(10**9),), float: (math.nan, -math.inf)}


def exported(package: ModuleType, base: type) -> list[type]:
    """Every class that `package` exports, but `base` itself."""
    return [kind for name in package.EXPORTS if (kind := getattr(package, name)) is not base]


def require(kept: bool, what: str) -> None:
    """Fail with `what`, which says what the extension does instead, unless `kept`."""
    if not kept:
        raise AssertionError(what)


def refuses(call: Callable[[], Any], error: type[Exception], when: str) -> str:
    """The one-line message of the `error` that `call` raises. Fails if it raises another one, or none."""
    try:
        call()
    except error as raised:
        require(bool(str(raised)) and "\n" not in str(raised), f"{when}: the message is not one line: {str(raised)!r}")
        return str(raised)
    except Exception as raised:
        raise AssertionError(
            f"{when}: raises {type(raised).__name__} ({raised}), not {error.__name__} with one line"
        ) from raised
    raise AssertionError(f"{when}: is accepted; raise {error.__name__} with one line that says what to do")


class Contract:
    """The clauses that every extension of one kind keeps.

    Args:
        kind: the word for it.
        see: the class or function that states the contract.
    """

    def __init__(self, kind: str, see: Any) -> None:
        self.kind, self.see = kind, see
        self.clauses: list[Clause] = []

    def clause(self, check: Clause) -> Clause:
        """Add a check. The first line of its docstring says what holds."""
        self.clauses.append(check)
        return check

    def hold(self, extension: Any, clause: Clause) -> None:
        """Hold an extension to one clause.

        Raises:
            AssertionError: names the extension, its file, the clause, what it does instead, and where to look.
        """
        try:
            clause(extension)
        except Exception as error:
            what = str(error) if type(error) is AssertionError else f"raises {type(error).__name__}: {error}"
            said = inspect.getdoc(clause).splitlines()[0].rstrip(".")
            name = getattr(extension, "__name__", extension)
            raise AssertionError(
                f"{self.kind} {name} ({_file(extension)}) breaks the contract {said!r}: {what}. "
                f"See {self.see.__qualname__} in {_file(self.see)}, and docs/extending.md"
            ) from error

    def broken(self, extension: Any) -> dict[str, str]:
        """The clauses that an extension breaks, by name, and what is said of each."""
        said = {}
        for clause in self.clauses:
            try:
                self.hold(extension, clause)
            except AssertionError as error:
                said[clause.__name__] = str(error)
        return said


def _file(thing: Any) -> str:
    path = Path(inspect.getsourcefile(inspect.unwrap(thing)))
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


# --- clauses of several kinds -----------------------------------------------------------------------------


def complete(kind: type, base: type) -> None:
    """Fail for a class of another kind, or one that leaves a method out."""
    require(isinstance(kind, type) and issubclass(kind, base), f"is not a subclass of {base.__name__}")
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    require(not missing, f"does not define {', '.join(missing)}")


def documented(kind: type, sourced: bool = True) -> None:
    """Fail for a class without docstring, an option that no `Args` describes, or no `Source:` in class or module."""
    require(bool(kind.__dict__.get("__doc__")), "has no docstring; say in its first line what it is")
    described = {name for parent in kind.__mro__ for name in _described(parent)}
    missing = [name for name in _options(kind) if name not in described]
    require(not missing, f"its docstring describes no {', '.join(missing)}; add it to Args, with units and range")
    require(
        not sourced or re.search(r"\bSources?:", docstrings(kind)) is not None,
        "neither its docstring nor its module's says where it is from; add 'Source: paper (arXiv number)', or "
        "'Source: ours'",
    )


def docstrings(kind: type) -> str:
    """What the docstrings of a class and its module say, in one line."""
    return " ".join(f"{kind.__doc__} {inspect.getmodule(kind).__doc__}".split())


def _options(kind: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind).parameters
    return {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _described(kind: type) -> Iterable[str]:
    """Names in the `Args` (of a dataclass: `Attributes`) section of a class's own docstring."""
    doc = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    section = re.search(r"^(?:Args|Attributes):\n((?: .*\n?|\n)*)", doc, re.MULTILINE)
    for names in re.findall(r"^    ([\w, ]+):", section[1] if section else "", re.MULTILINE):
        yield from (name.strip() for name in names.split(","))


def options_are_checked(kind: type, given: dict[str, Any] | None = None) -> None:
    """Fail for an option without default, or a number that accepts what can mean nothing.

    `given`: values of options without a default.
    """
    given = given or {}
    for name, option in _options(kind).items():
        require(
            name in given or option.default is not option.empty,
            f"{name} has no default, so its name alone runs nothing",
        )
        for value in NONSENSE.get(type(option.default), ()):
            said = refuses(lambda n=name, v=value: kind(**{**given, n: v}), UserError, f"{name}={value}")
            require(name in said, f"{name}={value}: the message does not name the option: {said!r}")


def is_lines(reasons: Any) -> bool:
    """Whether it is a list of one-line texts."""
    return isinstance(reasons, list) and all(isinstance(r, str) and r and "\n" not in r for r in reasons)


def torch_users(*files: Path) -> set[Path]:
    """The first of the files whose import imports torch, looked at in the order given in one fresh process."""
    code = (
        "import sys, importlib.util as u\n"
        "for f in sys.argv[1:]:\n"
        "    s = u.spec_from_file_location('looked_at', f); m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "    if 'torch' in sys.modules: print(f); break\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {Path(line) for line in done.stdout.splitlines()}
