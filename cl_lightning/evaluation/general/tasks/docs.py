"""What our task files ask for: items from the user's own files, fixed demonstrations, ROUGE-L.

Demonstrations are never scored. Items of several kinds (subjects, sub-tasks) come in turns, so that a limit takes from
all of them, and each is shown demonstrations of its own kind.
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

#: Of Alpaca's 52,002 instructions: scored, and shown.
ALPACA_SCORED, ALPACA_SHOWN = 190, 5


def read(data_dir: str, items: str, shown: str | int, kind: str | None = None, **_: Any) -> dict[str, Dataset]:
    """The split "test" of a task, from `data_dir`; each record also says its "kind" and whether it is "shown".

    Args:
        items: JSONL file.
        shown: JSONL file of demonstrations, or how many records of each kind are taken off the beginning of `items`.
        kind: the field that tells kinds apart; None: all items are of one kind.

    Raises:
        DataError: a file that is missing or damaged, or items of a kind without demonstrations.
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
        raise DataError(f"{Path(data_dir) / items}: no item is left beside the demonstrations")
    rows = [{**r, "shown": False} for r in in_turns] + [{**r, "shown": True} for r in demonstrations]
    return {"test": Dataset.from_list(rows)}


def instructions(data_dir: str, shown: int, **_: Any) -> dict[str, Dataset]:
    """The split "test" of instructions with a reference each: the first `shown` are demonstrations.

    From `data_dir`: instructions.jsonl, objects with "prompt" and "response"; where there is none instructions.json, a
    list of objects with "prompt" and "answer", which is how TRACE has LIMA's (Lima/train.json; its test split has no
    answers).

    Raises:
        DataError: a file that is missing or damaged, an instruction without a reference, too few.
    """
    path, answer = Path(data_dir) / "instructions.jsonl", "response"
    if not path.exists() and path.with_suffix(".json").exists():
        path, answer = path.with_suffix(".json"), "answer"
    rows = []
    for where, record in _records(path) if answer == "response" else _listed(path):
        texts = [record.get(key) if isinstance(record, dict) else None for key in ("prompt", answer)]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"{where}: expected an object with 'prompt' and {answer!r}, texts that are not empty")
        rows.append({"prompt": texts[0].strip(), "output": texts[1], "kind": "", "shown": len(rows) < shown})
    if len(rows) <= shown:
        raise DataError(f"{path}: no item is left beside the {shown} demonstrations")
    return {"test": Dataset.from_list(rows)}


def _of_kinds(path: Path, kind: str | None) -> Iterator[Doc]:
    for where, record in _records(path):
        if not isinstance(record, dict) or (kind is not None and not isinstance(record.get(kind), str)):
            raise DataError(f"{where}: expected an object{f' with text under {kind!r}' if kind else ''}")
        yield {**record, "kind": record[kind] if kind else ""}


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Lines of a JSONL file, each with where it stands."""
    if not path.is_file():
        raise DataError(f"{path} is missing; observers.general data_dir must hold the preset's files")
    # Not splitlines: Unicode has line ends that JSON allows inside a text.
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), 1):
        where = f"{path}, line {number}"
        yield where, parse_json(line, where)


def _listed(path: Path) -> Iterator[tuple[str, Any]]:
    """Members of a JSON list, each with where it stands."""
    for number, record in enumerate(records_in(read_json(path), path), 1):
        yield f"{path}, record {number}", record


def scored(docs: Dataset) -> Dataset:
    """The items that are not demonstrations."""
    return docs.select([i for i, is_shown in enumerate(docs["shown"]) if not is_shown])


def shown(docs: Dataset) -> Dataset:
    """The demonstrations."""
    return docs.select([i for i, is_shown in enumerate(docs["shown"]) if is_shown])


class OfSameKind(ContextSampler):
    """The first demonstrations of the item's own kind, in the order of the file."""

    def sample(self, n: int, eval_doc: Doc | None = None, df: Sequence[Doc] | None = None, **_: Any) -> list[Doc]:
        kind = (eval_doc or {})["kind"]
        found = [doc for doc in self.df if doc["kind"] == kind][:n]
        if len(found) < n:
            raise DataError(f"general ability: {len(found)} demonstrations of {kind or 'this task'!r}, {n} are wanted")
        return found


def alpaca_scored(docs: Dataset) -> Dataset:
    """The first instructions of Alpaca."""
    return docs.select(range(ALPACA_SCORED))


def alpaca_shown(docs: Dataset) -> Dataset:
    """The instructions after those."""
    return docs.select(range(ALPACA_SCORED, ALPACA_SCORED + ALPACA_SHOWN))


def rouge_l(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """ROUGE-L F1 of a generated answer against "output", 0..1 as lm-eval's metrics are."""
    answer = doc["output"].strip()
    return {"rouge_l": best_scores("rouge_l", [results[0].strip()], [[answer]], [""])[0] / 100}
