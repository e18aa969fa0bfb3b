"""Super-NI: fifteen tasks of Super-NaturalInstructions in the orders of SAPT and GainLoRA, from the user's own copy.

The tasks are from Wang et al. 2022, arXiv:2204.07705 (Apache-2.0; the texts under them have licences of their own);
the selection, the orders and the prompt are from SAPT's and GainLoRA's published code. A task is a folder
`<root>/superni/<task>` or `<root>/<task>` with `train.json` and `test.json`, each {"Definition": [..], "Instances":
[{"input": .., "output": text or list of texts}, ..]}. `dev.json` is never read: the published one equals test.

Where we differ from the published code: an instance with several references is scored against the best of them (there
one is drawn, another one in every run), and trained on the first; a training instance with a blank answer (six of
task511's) is left out. No torch here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from cl_lightning.data import sample
from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec
from cl_lightning.data.files import kind, read_json, records_in, text_of
from cl_lightning.errors import DataError, nearest

Order = Literal["order1", "order2"]

MAX_NEW_TOKENS = 50

ORDERS: dict[str, tuple[str, ...]] = {
    "order1": (
        "task1572_samsum_summary", "task363_sst2_polarity_classification", "task1290_xsum_summarization",
        "task181_outcome_extraction", "task002_quoref_answer_generation", "task1510_evalution_relation_extraction",
        "task639_multi_woz_user_utterance_generation", "task1729_personachat_generate_next",
        "task073_commonsenseqa_answer_generation", "task1590_diplomacy_text_generation",
        "task748_glucose_reverse_cause_event_detection", "task511_reddit_tifu_long_text_summarization",
        "task591_sciq_answer_generation", "task1687_sentiment140_classification", "task875_emotion_classification",
    ),
    "order2": (
        "task748_glucose_reverse_cause_event_detection", "task073_commonsenseqa_answer_generation",
        "task1590_diplomacy_text_generation", "task639_multi_woz_user_utterance_generation",
        "task1572_samsum_summary", "task1687_sentiment140_classification", "task591_sciq_answer_generation",
        "task363_sst2_polarity_classification", "task1510_evalution_relation_extraction",
        "task1729_personachat_generate_next", "task181_outcome_extraction",
        "task511_reddit_tifu_long_text_summarization", "task002_quoref_answer_generation",
        "task1290_xsum_summarization", "task875_emotion_classification",
    ),
}  # fmt: skip
"""The two published task orders."""

#: Before the definition, before the input, after it.
PROMPT = ("Definition: ", "\n\nNow complete the following example -\nInput: ", "\nOutput: ")


def _spec(name: str) -> TaskSpec:
    source = f"Super-NaturalInstructions {name}: Apache-2.0, its texts under licences of their own"
    return TaskSpec(name, "rouge_l", MAX_NEW_TOKENS, source=source)


class SuperNI(Benchmark):
    """Super-NI from files, or the built-in sample where there is no root.

    Args:
        order: which of the published orders `data.order=null` stands for.
    """

    evaluator = "sapt"

    def __init__(self, order: Order = "order1") -> None:
        self.order = order

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        """The fifteen tasks in the chosen order; beside files, any other task folder there; else the sample's."""
        if root is None:
            return sample.TASKS
        others = {p.parent.name for base in (root / "superni", root) for p in base.glob("*/train.json")}
        names = [*ORDERS[self.order], *sorted(n for n in others - {*ORDERS[self.order]} if n.startswith("task"))]
        return {name: _spec(name) for name in names}

    def default_order(self, root: Path | None) -> list[str]:
        """The published order alone."""
        return list(sample.TASKS) if root is None else list(ORDERS[self.order])

    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task.

        Raises:
            DataError: no such folder or file, malformed JSON, an instance without usable input or output, an empty
                split; one line that names the place.
        """
        if root is None:
            return sample.load(name)
        tried = [root / "superni" / name, root / name]
        folder = next((path for path in tried if path.is_dir()), None)
        if folder is None:
            there = {p.parent.name for base in (root / "superni", root) for p in base.glob("*/train.json")}
            hint = nearest(name, there) if there else "no task folder there"
            raise DataError(f"task {name!r} not found: looked for {', '.join(map(str, tried))}; {hint}")
        return Splits(*(tuple(_examples(folder, name, split)) for split in ("train", "test")))

    def describe(self, root: Path | None) -> str:
        """Says plainly when it is not Super-NI."""
        return "built-in sample, NOT Super-NI" if root is None else "Super-NI files"


def _examples(folder: Path, name: str, split: str) -> Iterator[Example]:
    path = folder / f"{split}.json"
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: holds {kind(data)}, expected an object with Definition and Instances")
    definition = data.get("Definition")
    definition = definition[0] if isinstance(definition, list) and definition else definition
    instruction = text_of({"Definition": definition}, "Definition", str(path)).strip()
    for index, record in enumerate(records_in(data.get("Instances"), f"{path}: Instances")):
        where = f"{path}: instance {index + 1}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {kind(record)}, expected an object with input and output")
        if split == "train" and _is_blank(record.get("output")):
            continue  # the published files have some, and there is nothing to learn from them
        answers = _answers(record, where)
        # Joined, not formatted: definitions and inputs contain braces.
        prompt = "".join((PROMPT[0], instruction, PROMPT[1], text_of(record, "input", where), PROMPT[2]))
        yield Example(f"{name}/{split}/{index}", prompt, answers[0], answers if len(answers) > 1 else ())


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
