"""Functions of our lm-eval task files: items from user files, fixed demonstrations, ROUGE-L.

Demonstrations are never scored. Items of several kinds (subjects, sub-tasks) are interleaved, so that a limit takes
items of each, and an item's demonstrations are of its own kind.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.samplers import ContextSampler

from cl_lightning.common.errors import DataError
from cl_lightning.data.benchmarks.json_files import parse_json, read_json, read_text, records_in
from cl_lightning.metrics.registry import best_scores

Doc = dict[str, Any]

#: Numbers of Alpaca's 52,002 instructions that are scored and that are demonstrations.
ALPACA_SCORED, ALPACA_SHOWN = 190, 5


def read(data_dir: str, items: str, shown: str | int, kind: str | None = None, **_: Any) -> dict[str, Dataset]:
    """Read the split "test" of a task from `data_dir`; records get the fields "kind" and "shown" (demonstrations).

    Args:
        items: JSONL file.
        shown: JSONL file of demonstrations, or the number of first records of each kind to use as demonstrations.
        kind: field with the kind of an item; None: all items are of one kind.

    Raises:
        DataError: a file is missing or damaged, or no items are left besides the demonstrations.
    """
    records = list(_of_kinds(Path(data_dir) / items, kind))
    by_kind: dict[str, list[Doc]] = defaultdict(list)
    for record in records:
        by_kind[record["kind"]].append(record)
    if isinstance(shown, int):
        demonstrations = [record for group in by_kind.values() for record in group[:shown]]
        by_kind = {name: group[shown:] for name, group in by_kind.items()}
    else:
        demonstrations = list(_of_kinds(Path(data_dir) / shown, kind))
    in_turns = [record for turn in zip_longest(*by_kind.values()) for record in turn if record is not None]
    if not in_turns:
        raise DataError(f"{Path(data_dir) / items}: no items are left besides the demonstrations")
    rows = [{**r, "shown": False} for r in in_turns] + [{**r, "shown": True} for r in demonstrations]
    return {"test": Dataset.from_list(rows)}


def instructions(data_dir: str, shown: int, **_: Any) -> dict[str, Dataset]:
    """Read the split "test" of instructions with references; the first `shown` are demonstrations.

    Reads `data_dir`/instructions.jsonl, objects with "prompt" and "response", or else instructions.json, a list of
    objects with "prompt" and "answer" like TRACE's file of LIMA (Lima/train.json; its test split has no answers).

    Raises:
        DataError: the file is missing or damaged, an instruction has no reference, or there are too few.
    """
    path, answer = Path(data_dir) / "instructions.jsonl", "response"
    if not path.exists() and path.with_suffix(".json").exists():
        path, answer = path.with_suffix(".json"), "answer"
    rows = []
    for where, record in _records(path) if answer == "response" else _listed(path):
        texts = [record.get(key) if isinstance(record, dict) else None for key in ("prompt", answer)]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"{where}: expected an object with 'prompt' and {answer!r}, non-empty strings")
        rows.append({"prompt": texts[0].strip(), "output": texts[1], "kind": "", "shown": len(rows) < shown})
    if len(rows) <= shown:
        raise DataError(f"{path}: no items are left besides the {shown} demonstrations")
    return {"test": Dataset.from_list(rows)}


def _of_kinds(path: Path, kind: str | None) -> Iterator[Doc]:
    for where, record in _records(path):
        if not isinstance(record, dict) or (kind is not None and not isinstance(record.get(kind), str)):
            raise DataError(f"{where}: expected an object{f' with a string under {kind!r}' if kind else ''}")
        yield {**record, "kind": record[kind] if kind else ""}


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the lines of a JSONL file, each with its location."""
    if not path.is_file():
        raise DataError(f"{path} is missing; observers.general.data_dir must hold the preset's files")
    # Not splitlines: JSON strings may contain other Unicode line ends.
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), 1):
        where = f"{path}, line {number}"
        yield where, parse_json(line, where)


def _listed(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the members of a JSON list, each with its location."""
    for number, record in enumerate(records_in(read_json(path), path), 1):
        yield f"{path}, record {number}", record


def scored(docs: Dataset) -> Dataset:
    """Select the items that are not demonstrations."""
    return docs.select([i for i, is_shown in enumerate(docs["shown"]) if not is_shown])


def shown(docs: Dataset) -> Dataset:
    """Select the demonstrations."""
    return docs.select([i for i, is_shown in enumerate(docs["shown"]) if is_shown])


class OfSameKind(ContextSampler):
    """Takes the first demonstrations of the item's own kind, in file order."""

    def sample(self, n: int, eval_doc: Doc | None = None, df: Sequence[Doc] | None = None, **_: Any) -> list[Doc]:
        kind = (eval_doc or {})["kind"]
        found = [doc for doc in self.df if doc["kind"] == kind][:n]
        if len(found) < n:
            raise DataError(f"general ability: {len(found)} demonstrations of {kind or 'this task'!r}, {n} are needed")
        return found


def alpaca_scored(docs: Dataset) -> Dataset:
    """Select the first instructions of Alpaca."""
    return docs.select(range(ALPACA_SCORED))


def alpaca_shown(docs: Dataset) -> Dataset:
    """Select the instructions after the scored ones."""
    return docs.select(range(ALPACA_SCORED, ALPACA_SCORED + ALPACA_SHOWN))


def rouge_l(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Compute ROUGE-L F1 of a generated answer against "output", 0..1 like lm-eval's metrics."""
    answer = doc["output"].strip()
    return {"rouge_l": best_scores("rouge_l", [results[0].strip()], [[answer]], [""])[0] / 100}
