"""Finds and lists experiments and presets, and expands `run NAME` into options."""

import re
import shutil
import textwrap
from difflib import get_close_matches
from pathlib import Path

from cl_lightning.commands.precheck import USAGE
from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.terminal import say

#: File with the defaults of all experiments; not an experiment itself.
BASE = "_base"


def folder() -> Path:
    """Return the folder of experiment files: inside the package if installed, beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


def names() -> list[str]:
    """Return the names of all experiments, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml") if path.stem != BASE)


def presets() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in (folder() / "presets").glob("*.yaml"))


def expanded(argv: list[str]) -> list[str]:
    """Replace `NAME [--preset NAME]` at the start of `run`'s arguments by options.

    Raises:
        ConfigError: no such experiment or preset.
    """
    if not argv or argv[0].startswith("-"):
        return argv
    name, *rest = argv
    if name not in names():
        close = get_close_matches(name.lower(), names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(f"no experiment {name!r}; {hint}`cl-lightning experiments` lists them")
    options = [f"--config={file}" for file in (folder() / f"{BASE}.yaml", folder() / f"{name}.yaml")]
    experiment = name
    if rest and rest[0].partition("=")[0] == "--preset":
        word, equals, preset = rest.pop(0).partition("=")
        if not equals:
            preset = rest.pop(0) if rest else ""
        if preset not in presets():
            raise ConfigError(f"{word}: no preset {preset!r}; {nearest(preset, presets())}")
        options.append(f"--config={folder() / 'presets' / preset}.yaml")
        experiment = f"{name}_{preset}"
    # By name, since a file of the user's own may come after these.
    return [*options, f"--sequence.experiment={experiment}", *rest]


def about(path: Path) -> str:
    """Return the description in the first line of an experiment's file, a comment."""
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def main(argv: list[str]) -> None:
    """Print the experiments, grouped by the benchmark in their names, and the presets."""
    if argv and argv[0] not in ("-h", "--help"):
        raise ConfigError(f"experiments takes no arguments, not {argv[0]!r}")
    say(USAGE)
    group = None
    for name in names():
        benchmark = re.match(r"long_sequence|[^_]+", name)[0]
        if benchmark != group:
            group = benchmark
            say("")
            say(group)
        _entry(name, folder() / f"{name}.yaml")
    say("")
    say("presets, applied on top of an experiment")
    for name in presets():
        _entry(name, folder() / "presets" / f"{name}.yaml")


def _entry(name: str, path: Path) -> None:
    """Print a name and its description, wrapped on a terminal and one line in a pipe."""
    width = max(60, shutil.get_terminal_size((10_000, 24)).columns)
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent=" " * 41, break_on_hyphens=False, break_long_words=False
    )  # options stay whole
    for line in wrapper.wrap(f"  {name:<38} {about(path)}"):
        say(line)
