"""Files in the layout of Super-NaturalInstructions: {"Definition": [..], "Instances": [{"input", "output"}, ..]}.

Imports no torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import DataError, nearest
from cl_lightning.data.benchmarks.json_files import kind, read_json, records_in, text_of


@dataclass(frozen=True)
class Instance:
    """One record: its index in the file, its input, and its answers, the first of which is the training target."""

    index: int
    input: str
    answers: tuple[str, ...]

    @property
    def references(self) -> tuple[str, ...]:
        """All answers if there are several, as in `Example.references`."""
        return self.answers if len(self.answers) > 1 else ()


@dataclass(frozen=True)
class TaskFile:
    """A file's instruction ("" if it has and needs none), its instances, the number of blank ones left out, and its
    "Instance License" ("" if it has none)."""

    definition: str
    instances: tuple[Instance, ...]
    blank: int
    licence: str = ""


def read_task(path: Path, skip_blank: bool, needs_definition: bool = True) -> TaskFile:
    """Read one file.

    Args:
        path: the JSON file.
        skip_blank: leave out instances with a blank answer, which some published training files have; else they raise
            an error.
        needs_definition: raise an error for a file without an instruction.

    Raises:
        DataError: malformed JSON, no instruction, an instance without usable input or output, or no instance.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: holds {kind(data)}, expected an object with Definition and Instances")
    definition = _definition(data, path, needs_definition)
    records = records_in(data.get("Instances"), f"{path}: Instances")
    instances = tuple(_instances(records, path, skip_blank))
    licence = data.get("Instance License", "")
    stated = ", ".join(text.strip() for text in (licence if isinstance(licence, list) else [licence]) if _is_text(text))
    return TaskFile(definition, instances, len(records) - len(instances), stated)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _definition(data: dict[str, Any], path: Path, needed: bool) -> str:
    definition = data.get("Definition")
    if not needed and definition in ([], [""], "", None):
        return ""
    definition = definition[0] if isinstance(definition, list) and definition else definition
    return text_of({"Definition": definition}, "Definition", str(path)).strip()


def _instances(records: list[Any], path: Path, skip_blank: bool) -> Iterator[Instance]:
    for index, record in enumerate(records):
        where = f"{path}: instance {index + 1}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {kind(record)}, expected an object with input and output")
        if skip_blank and _is_blank(record.get("output")):
            continue
        answers = _answers(record, where)
        yield Instance(index, text_of(record, "input", where), answers)


def _is_blank(output: Any) -> bool:
    texts = output if isinstance(output, list) else [output]
    return bool(texts) and all(isinstance(text, str) and not text.strip() for text in texts)


def _answers(record: dict[str, Any], where: str) -> tuple[str, ...]:
    output = record.get("output")
    if not isinstance(output, list):
        return (text_of(record, "output", where),)
    if not output:
        raise DataError(f"{where}: 'output' is empty")
    return tuple(dict.fromkeys(text_of({"output": answer}, "output", where) for answer in output))


def folders_in(bases: Sequence[Path]) -> set[str]:
    """Return the names of the folders with a train.json in any of `bases`."""
    return {path.parent.name for base in bases for path in base.glob("*/train.json")}


def find_folder(name: str, places: Sequence[Path]) -> Path:
    """Return the first of `places` that is a folder. Raises DataError, which names them and the task folders there."""
    folder = next((path for path in places if path.is_dir()), None)
    if folder is None:
        there = folders_in([path.parent for path in places])
        hint = nearest(name, there) if there else "no task folder there"
        raise DataError(f"task {name!r} not found: looked for {', '.join(map(str, places))}; {hint}")
    return folder
