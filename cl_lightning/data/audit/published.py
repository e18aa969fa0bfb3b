"""The published files: address, terms, destination and checksum of each. Imports no torch.

A checksum covers a file's rows (`checksum`), not its bytes, so a reformatted copy keeps it. The checksums here are of
the files in the authors' repositories; None if we have not seen the file.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from cl_lightning.common.errors import DataError
from cl_lightning.data.base import Benchmark
from cl_lightning.data.benchmarks import long_sequence, superni, trace
from cl_lightning.data.benchmarks.json_files import read_json, records_in

#: Permitted use of a file: "open": an open licence; "non-commercial"; "unclear": no licence, or research terms.
Use = Literal["open", "non-commercial", "unclear"]

HOST = "https://raw.githubusercontent.com"
GAINLORA = "liangyanshuo/gainlora/a47edf47953917dc0146b97a8a2583cdba2a5a99/CL_Benchmark"
TRACE_COPY = "zjwang21/TRACE/cb1bfea893e6181801b1e663ec659316533c1e21/TRACE-Benchmark"

_LONG_USE: dict[str, Use] = {
    "boolq": "open", "dbpedia": "open", "copa": "open", "wic": "non-commercial", "agnews": "non-commercial",
}  # fmt: skip
_TRACE_USE: dict[str, Use] = {
    "NumGLUE-cm": "open", "NumGLUE-ds": "open", "FOMC": "non-commercial", "MeetingBank": "non-commercial",
    "ScienceQA": "non-commercial",
}  # fmt: skip


@dataclass(frozen=True)
class PublishedFile:
    """One file.

    Attributes:
        path: destination below the data root, where our readers look for it.
        place: address below `HOST`.
        terms: source and licence, in one line.
        use: use that the terms permit.
        checksum: checksum of its rows; None if not known.
    """

    path: Path
    place: str
    terms: str
    use: Use
    checksum: str | None

    @property
    def needed(self) -> bool:
        """Whether training or scoring reads it; only the data check reads development splits."""
        return self.path.stem in ("train", "test")


def files(subsets: Sequence[int] = (5000,)) -> list[PublishedFile]:
    """List the train, test and development files of all tasks of Super-NI, Long Sequence and TRACE (in these sizes)."""
    found = []
    for split in ("train", "test", "dev"):
        for name in superni.ORDERS["order1"]:
            licence = superni.LICENCES.get(name.partition("_")[0])
            use: Use = "unclear" if licence is None else "non-commercial" if "NC" in licence else "open"
            terms = superni.SuperNI().tasks(Path())[name].source
            place = f"{GAINLORA}/SuperNI/{name}/{split}.json"
            found.append(_file(Path("superni") / name, split, place, terms, use))
        for name, spec in long_sequence.TASKS.items():
            place = f"{GAINLORA}/Long_Sequence/{name}/{split}.json"
            use = _LONG_USE.get(name, "unclear")
            found.append(_file(Path("long_sequence") / name, split, place, spec.source, use))
        for folder, (name, spec) in product((f"{trace.PREFIX}{size}" for size in subsets), trace.TASKS.items()):
            theirs = "eval" if split == "dev" else split
            place = f"{TRACE_COPY}/{folder}/{name}/{theirs}.json"
            found.append(_file(Path(folder) / name, theirs, place, spec.source, _TRACE_USE.get(name, "unclear")))
    return sorted(found, key=lambda file: file.path)


def _file(folder: Path, split: str, place: str, terms: str, use: Use) -> PublishedFile:
    path = folder / f"{split}.json"
    return PublishedFile(path, place, terms, use, CHECKSUMS.get(path.as_posix()))


def copies(file: PublishedFile, root: Path) -> list[Path]:
    """Find the file in all places under `root` where our readers look for it.

    A copy of TRACE outside the authors' folders counts as the largest size.
    """
    base, task, name = file.path.parts
    places = _READERS.get(base, trace.TRACE()).places(root, task)
    found = [place / name for place in places if _size(place) == _size(file.path.parent)]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _size(folder: Path) -> int:
    return trace.subset_of(folder) or max(trace.SUBSETS)


#: Reader of each folder; TRACE reads all others.
_READERS: dict[str, Benchmark] = {"superni": superni.SuperNI(), "long_sequence": long_sequence.LongSequence()}


def checksum(path: Path) -> str:
    """Compute the first 16 hex digits of the SHA-256 of a file's rows (input and output, or prompt and answer).

    Raises:
        DataError: the file holds no such rows.
    """
    data = read_json(path)
    digest = hashlib.sha256()
    for number, row in enumerate(records_in(data.get("Instances") if isinstance(data, dict) else data, path), start=1):
        pairs = [("input", "output"), ("prompt", "answer")]
        keys = next((pair for pair in pairs if isinstance(row, dict) and {*pair} <= row.keys()), None)
        if keys is None:
            raise DataError(f"{path}: row {number} has neither input and output nor prompt and answer")
        digest.update(json.dumps([row[key] for key in keys], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:16]


#: Destination below the data root -> checksum of the published rows.
CHECKSUMS: dict[str, str] = {
    "superni/task002_quoref_answer_generation/dev.json": "c8c14c00b1a5aa84",
    "superni/task002_quoref_answer_generation/test.json": "c8c14c00b1a5aa84",
    "superni/task002_quoref_answer_generation/train.json": "ef8a47634fe1b463",
    "superni/task073_commonsenseqa_answer_generation/dev.json": "de2286930a5edbac",
    "superni/task073_commonsenseqa_answer_generation/test.json": "de2286930a5edbac",
    "superni/task073_commonsenseqa_answer_generation/train.json": "b49a5cc2cf638b4c",
    "superni/task1290_xsum_summarization/dev.json": "98ec4816305b3827",
    "superni/task1290_xsum_summarization/test.json": "98ec4816305b3827",
    "superni/task1290_xsum_summarization/train.json": "b22bd2c1e9531d6a",
    "superni/task1510_evalution_relation_extraction/dev.json": "49916d11b65a1f38",
    "superni/task1510_evalution_relation_extraction/test.json": "49916d11b65a1f38",
    "superni/task1510_evalution_relation_extraction/train.json": "698eebe1f917e498",
    "superni/task1572_samsum_summary/dev.json": "4cb4d2f8f72398a2",
    "superni/task1572_samsum_summary/test.json": "4cb4d2f8f72398a2",
    "superni/task1572_samsum_summary/train.json": "7541acdfebcf7c2f",
    "superni/task1590_diplomacy_text_generation/dev.json": "839bbbb40d859f2d",
    "superni/task1590_diplomacy_text_generation/test.json": "839bbbb40d859f2d",
    "superni/task1590_diplomacy_text_generation/train.json": "cf4ad3cdd901dddf",
    "superni/task1687_sentiment140_classification/dev.json": "00a21f55de799719",
    "superni/task1687_sentiment140_classification/test.json": "00a21f55de799719",
    "superni/task1687_sentiment140_classification/train.json": "e492b6c08a97e103",
    "superni/task1729_personachat_generate_next/dev.json": "2b0f607a4287430e",
    "superni/task1729_personachat_generate_next/test.json": "2b0f607a4287430e",
    "superni/task1729_personachat_generate_next/train.json": "8c9300b64800560e",
    "superni/task181_outcome_extraction/dev.json": "ba10432a7e038a2a",
    "superni/task181_outcome_extraction/test.json": "ba10432a7e038a2a",
    "superni/task181_outcome_extraction/train.json": "1e7be30cbafe5fd1",
    "superni/task363_sst2_polarity_classification/dev.json": "c1507f1f279f47b1",
    "superni/task363_sst2_polarity_classification/test.json": "c1507f1f279f47b1",
    "superni/task363_sst2_polarity_classification/train.json": "bcd25e93d5c21109",
    "superni/task511_reddit_tifu_long_text_summarization/dev.json": "59dda654de05e94f",
    "superni/task511_reddit_tifu_long_text_summarization/test.json": "59dda654de05e94f",
    "superni/task511_reddit_tifu_long_text_summarization/train.json": "3589828675b77870",
    "superni/task591_sciq_answer_generation/dev.json": "a950518e48b5905d",
    "superni/task591_sciq_answer_generation/test.json": "a950518e48b5905d",
    "superni/task591_sciq_answer_generation/train.json": "1191052e14cd6bde",
    "superni/task639_multi_woz_user_utterance_generation/dev.json": "53f9d1fe5409c702",
    "superni/task639_multi_woz_user_utterance_generation/test.json": "53f9d1fe5409c702",
    "superni/task639_multi_woz_user_utterance_generation/train.json": "5f1f6fd2acce92f2",
    "superni/task748_glucose_reverse_cause_event_detection/dev.json": "01fbc8dfdb96c9d6",
    "superni/task748_glucose_reverse_cause_event_detection/test.json": "01fbc8dfdb96c9d6",
    "superni/task748_glucose_reverse_cause_event_detection/train.json": "9a91d5c84d05e7eb",
    "superni/task875_emotion_classification/dev.json": "661bb245514cd6c0",
    "superni/task875_emotion_classification/test.json": "661bb245514cd6c0",
    "superni/task875_emotion_classification/train.json": "5f7f2e047d804265",
    "long_sequence/amazon/train.json": "a0468808710fc2b4",
    "long_sequence/boolq/train.json": "9ad73d1d1db659a6",
    "long_sequence/cb/dev.json": "fc4414159c0b4c70",
    "long_sequence/cb/test.json": "fc4414159c0b4c70",
    "long_sequence/cb/train.json": "1aa1e5625b0b8a1a",
    "long_sequence/copa/dev.json": "f0a5e22234bf56e7",
    "long_sequence/copa/test.json": "f0a5e22234bf56e7",
    "long_sequence/copa/train.json": "be1ac09307a34f38",
    "long_sequence/imdb/train.json": "29f9490ed9510a1f",
    "long_sequence/mnli/train.json": "f68f17d51d57226e",
    "long_sequence/multirc/train.json": "09a8b16bb5f3fc97",
    "long_sequence/sst2/dev.json": "221108b7c71c0682",
    "long_sequence/sst2/test.json": "221108b7c71c0682",
    "long_sequence/sst2/train.json": "bd44d88862c49347",
    "long_sequence/wic/dev.json": "8cca43f7a4d7f7ae",
    "long_sequence/wic/test.json": "8cca43f7a4d7f7ae",
    "long_sequence/wic/train.json": "b2561769f1b7dd6b",
    "LLM-CL-Benchmark_500/MeetingBank/eval.json": "df1ed137a00f31dc",
    "LLM-CL-Benchmark_500/MeetingBank/test.json": "6719e2a28c54b260",
    "LLM-CL-Benchmark_500/Py150/eval.json": "2da6aac2f1928b41",
    "LLM-CL-Benchmark_500/Py150/test.json": "b46baf4a40216313",
    "LLM-CL-Benchmark_1000/20Minuten/train.json": "fec88f6f14182ab9",
    "LLM-CL-Benchmark_1000/Py150/train.json": "9cc37739c9e1a50a",
    "LLM-CL-Benchmark_1000/ScienceQA/train.json": "c5584f76af8b5570",
    "LLM-CL-Benchmark_5000/20Minuten/eval.json": "11f767934dc20850",
    "LLM-CL-Benchmark_5000/20Minuten/test.json": "a7d445d2d263ae90",
    "LLM-CL-Benchmark_5000/C-STANCE/eval.json": "bf1abee7e7aa05fe",
    "LLM-CL-Benchmark_5000/C-STANCE/test.json": "e1a550d3dc195974",
    "LLM-CL-Benchmark_5000/C-STANCE/train.json": "1e333e537547708e",
    "LLM-CL-Benchmark_5000/FOMC/eval.json": "1196bdbd4d897d6e",
    "LLM-CL-Benchmark_5000/FOMC/test.json": "d388644e9bc3ebad",
    "LLM-CL-Benchmark_5000/FOMC/train.json": "05c504e35eaa324b",
    "LLM-CL-Benchmark_5000/NumGLUE-cm/eval.json": "52f31dff805f4470",
    "LLM-CL-Benchmark_5000/NumGLUE-cm/test.json": "6649bdac7180842f",
    "LLM-CL-Benchmark_5000/NumGLUE-cm/train.json": "a66432084a9863ea",
    "LLM-CL-Benchmark_5000/NumGLUE-ds/eval.json": "61b01d4f18b556f7",
    "LLM-CL-Benchmark_5000/NumGLUE-ds/test.json": "fd53777725ff903f",
    "LLM-CL-Benchmark_5000/NumGLUE-ds/train.json": "26aa36f7c73a1e02",
    "LLM-CL-Benchmark_5000/ScienceQA/eval.json": "971a8efc5d9f7993",
    "LLM-CL-Benchmark_5000/ScienceQA/test.json": "07f0403f797e67af",
}
