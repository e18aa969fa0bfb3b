"""Read the definition of a study: a folder with `grid.yaml`, `_base.yaml`, `methods/` and `sequences/`."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.options import Options, flat
from cl_lightning.common.paths import part_fault
from cl_lightning.common.yaml_files import parse_yaml

#: Sections of an options file that have no effect on results.
WITHOUT_EFFECT = ("observers", "sequence")
GRID = "grid.yaml"
LISTS = ("sequences", "seeds", "rates", "methods", "baselines", "references")


@dataclass(frozen=True)
class Cell:
    """One run of the study.

    Attributes:
        rate: the learning rate.
        definition: hash of the options that all seeds and learning rates of this method and sequence share.
        files: the cell's option files; later ones override earlier ones.
    """

    method: str
    rate: float
    seed: int
    sequence: str
    definition: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Name of its run folder below the folder of all of them."""
        return f"{self.sequence}/{self.method}_lr{self.rate:g}_seed{self.seed}_{self.definition}"

    @property
    def key(self) -> tuple[str, float, int, str, str]:
        """What identifies its row."""
        return self.method, self.rate, self.seed, self.sequence, self.definition

    def __str__(self) -> str:
        return f"{self.sequence} {self.method} lr={self.rate:g} seed={self.seed}"


@dataclass(frozen=True)
class Grid:
    """A study's definition.

    Attributes:
        development: the sequence on which learning rates are chosen.
        baselines: methods from which differences are taken.
        references: methods without a place in the plane.
        differing: the options of each method that its own file sets.
        about: the first line of each method's and sequence's file.
    """

    development: str
    sequences: tuple[str, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    methods: tuple[str, ...]
    baselines: tuple[str, ...]
    references: tuple[str, ...]
    definitions: Mapping[tuple[str, str], str]
    files: Mapping[tuple[str, str], tuple[Path, ...]]
    differing: Mapping[str, Options]
    about: Mapping[str, str]

    def cells(self) -> Iterator[Cell]:
        """Yield all cells in the order in which they are run: what compares most methods comes first."""
        for sequence in (self.development, *(s for s in self.sequences if s != self.development)):
            for seed in self.seeds:
                for rate in _from_the_middle(self.rates):
                    for method in self.methods:
                        pair = method, sequence
                        yield Cell(method, rate, seed, sequence, self.definitions[pair], self.files[pair])


def _from_the_middle(rates: Sequence[float]) -> list[float]:
    middle = sorted(rates)[len(rates) // 2]
    return sorted(rates, key=lambda rate: (abs(rate - middle) > 0, rate))


def read_grid(folder: Path) -> Grid:
    """Read the definition in `folder`; the defaults of all experiments are beside it.

    Raises:
        ConfigError: a file is missing or malformed, or the grid names a method or sequence without a file.
    """
    content = _options(folder / GRID)
    if lacking := [key for key in (*LISTS, "development") if key not in content]:
        raise ConfigError(f"{folder / GRID}: has no {', '.join(lacking)}")
    if strange := content.keys() - {*LISTS, "development"}:
        raise ConfigError(f"{folder / GRID}: {nearest(min(strange), (*LISTS, 'development'))}")
    for key in LISTS:
        if not isinstance(content[key], list) or len(content[key]) != len({*map(str, content[key])}):
            raise ConfigError(f"{folder / GRID}: {key}: must be a list without repetitions")
    methods, sequences = ([str(name) for name in content[key]] for key in ("methods", "sequences"))
    for key in ("baselines", "references"):
        _all_in(folder, key, content[key], methods)
    _all_in(folder, "development", [content["development"]], sequences)
    rates = [_number(folder, "rates", value, float) for value in content["rates"]]
    seeds = [_number(folder, "seeds", value, int) for value in content["seeds"]]
    about: dict[str, str] = {}
    for kind, names in (("methods", methods), ("sequences", sequences)):
        for name in names:
            if why := part_fault(name):
                raise ConfigError(f"{folder / GRID}: {kind}: the name {name!r} {why}")
            about[name] = _about(folder / kind / f"{name}.yaml")
    files, definitions = {}, {}
    for method in methods:
        for sequence in sequences:
            pair = method, sequence
            files[pair] = (
                folder.parent / "_base.yaml",
                folder / "_base.yaml",
                folder / "sequences" / f"{sequence}.yaml",
                folder / "methods" / f"{method}.yaml",
            )
            definitions[pair] = _definition(files[pair])
    return Grid(
        str(content["development"]),
        tuple(sequences),
        tuple(seeds),
        tuple(rates),
        tuple(methods),
        tuple(content["baselines"]),
        tuple(content["references"]),
        definitions,
        files,
        {method: flat(_options(folder / "methods" / f"{method}.yaml")) for method in methods},
        about,
    )


def _definition(files: Sequence[Path]) -> str:
    """Hash the options of files to 10 hex digits. Comments, layout, and what has no effect on results do not count."""
    parts = [{k: v for k, v in _options(file).items() if k not in WITHOUT_EFFECT} for file in files]
    text = json.dumps([part for part in parts if part], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _options(file: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must map options to values")
    return content


def _about(file: Path) -> str:
    _options(file)  # reports what is wrong with it
    return file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()


def _all_in(folder: Path, key: str, names: Sequence[object], valid: Sequence[str]) -> None:
    for name in names:
        if name not in valid:
            raise ConfigError(f"{folder / GRID}: {key}: no {name!r}; {nearest(str(name), valid)}")


def _number(folder: Path, key: str, value: object, kind: type[int] | type[float]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | kind) or value <= 0:
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if isinstance(value, str) else ""
        raise ConfigError(f"{folder / GRID}: {key}: {value!r} must be a number above 0{hint}")
    return kind(value)
