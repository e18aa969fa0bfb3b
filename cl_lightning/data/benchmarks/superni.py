"""Super-NI: fifteen tasks of Super-NaturalInstructions in the orders of SAPT and GainLoRA, from the user's own copy.

The tasks are from Wang et al. 2022, arXiv:2204.07705 (Apache-2.0; the texts under them have licences of their own);
the selection, the orders and the prompt are from SAPT's and GainLoRA's published code. A task is a folder
`<root>/superni/<task>` or `<root>/<task>` with `train.json` and `test.json`, each {"Definition": [..], "Instances":
[{"input": .., "output": text or list of texts}, ..]}. `dev.json` is never read: the published one equals test.

Where we differ from the published code: an instance with several references is scored against the best of them and
trained on the first (the published code draws one anew in every run); a training instance with a blank answer (six in
task511) is left out. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cl_lightning.data.base import TaskSpec
from cl_lightning.data.benchmarks.ni_files import folders_in
from cl_lightning.data.benchmarks.ni_folders import NIFolders

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

#: Text before the definition, before the input, and after it.
PROMPT = ("Definition: ", "\n\nNow complete the following example -\nInput: ", "\nOutput: ")


#: Licence of a task's texts as stated in its file; the collection itself is Apache-2.0.
LICENCES: dict[str, str] = {
    "task002": "CC BY 4.0", "task1290": "MIT", "task1572": "CC BY-NC-ND 4.0", "task1590": "CC BY 4.0",
    "task1729": "CC BY 4.0", "task511": "MIT", "task591": "CC BY-NC 3.0", "task639": "Apache-2.0",
    "task748": "CC BY-NC 4.0",
}  # fmt: skip

#: Numbers of examples in the published train and test files, if not 1000 and 100.
SIZES: dict[str, tuple[int, int]] = {
    "task073": (975, 100), "task1572": (160, 20), "task1590": (126, 16), "task181": (338, 43), "task639": (142, 18),
}  # fmt: skip


def _spec(name: str, published: bool) -> TaskSpec:
    number = name.partition("_")[0]
    licence = LICENCES.get(number, "no licence stated")
    source = f"Super-NaturalInstructions {name}: collection Apache-2.0, its texts {licence}"
    sizes = SIZES.get(number, (1000, 100)) if published else (None, None)
    return TaskSpec(name, "rouge_l", MAX_NEW_TOKENS, source=source, published=sizes)


class SuperNI(NIFolders):
    """Super-NI from files, or the built-in sample without a root.

    Args:
        order: the published order used for `data.order=null`.
    """

    title, cue = "Super-NI", PROMPT[2]
    evaluator = "sapt"
    official_max_new_tokens = MAX_NEW_TOKENS

    def __init__(self, order: Order = "order1") -> None:
        self.order = order

    def tasks_at(self, root: Path) -> Mapping[str, TaskSpec]:
        """Return the fifteen tasks in the chosen order, then any other task folder at `root`."""
        others = folders_in(self.bases(root)) - {*ORDERS[self.order]}
        names = [*ORDERS[self.order], *sorted(name for name in others if name.startswith("task"))]
        return {name: _spec(name, name in ORDERS[self.order]) for name in names}

    def order_at(self, root: Path) -> list[str]:
        """Return the chosen published order."""
        return list(ORDERS[self.order])

    def bases(self, root: Path) -> Sequence[Path]:
        """List the folders described at the top of this module."""
        return root / "superni", root

    def before_input(self, definition: str) -> str:
        """Return the beginning of the published prompt."""
        return f"{PROMPT[0]}{definition}{PROMPT[1]}"

    def published_epochs(self) -> Mapping[str, int]:
        """Return GainLoRA's epochs for T5 (50 for LLaMA-2)."""
        return dict.fromkeys(ORDERS[self.order], 100)
