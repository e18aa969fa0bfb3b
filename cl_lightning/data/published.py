"""The published files: where each lies, on which terms, where it goes, and what its rows hash to. No torch here.

A checksum is of a file's rows (`checksum`), so a copy that was only written anew still has it. Those given here are of
the rows that the authors' repositories hold; None where we have not had the file.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from cl_lightning.data import long_sequence, superni, trace
from cl_lightning.data.base import Benchmark
from cl_lightning.data.files import read_json, records_in
from cl_lightning.errors import DataError

#: What may be done with a file: "open": an open licence; "non-commercial"; "unclear": no licence or research terms.
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
        path: where it goes below the data root, and where our readers look for it.
        place: where it lies below `HOST`.
        terms: source and licence, one line.
        use: what the terms allow.
        checksum: of its rows; None where not known.
    """

    path: Path
    place: str
    terms: str
    use: Use
    checksum: str | None


def files(subsets: Sequence[int] = (5000,)) -> list[PublishedFile]:
    """Train and test of all tasks of Super-NI, Long Sequence and TRACE, of the latter in these of its sizes."""
    found = []
    for split in ("train", "test"):
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
            place = f"{TRACE_COPY}/{folder}/{name}/{split}.json"
            found.append(_file(Path(folder) / name, split, place, spec.source, _TRACE_USE.get(name, "unclear")))
    return sorted(found, key=lambda file: file.path)


def _file(folder: Path, split: str, place: str, terms: str, use: Use) -> PublishedFile:
    # Ours are of TRACE's largest size.
    known = None if trace.subset_of(folder) in trace.SUBSETS[:-1] else CHECKSUMS.get((folder.name, split))
    return PublishedFile(folder / f"{split}.json", place, terms, use, known)


def copies(file: PublishedFile, root: Path) -> list[Path]:
    """The file wherever under `root` our readers take it from: none, one or several.

    A copy of TRACE outside the authors' folders counts as one of the largest size.
    """
    base, task, name = file.path.parts
    size = trace.subset_of(file.path.parent)
    places = _READERS.get(base, trace.TRACE()).places(root, task)
    found = [place / name for place in places if trace.subset_of(place) in (None, size)]
    return [path for path in dict.fromkeys(found) if path.is_file()]


#: Whose places hold what goes to each folder; TRACE's the rest.
_READERS: dict[str, Benchmark] = {"superni": superni.SuperNI(), "long_sequence": long_sequence.LongSequence()}


def checksum(path: Path) -> str:
    """SHA-256 of a file's rows (input and output, or prompt and answer; in order), first 16 hex digits.

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


#: (task, split) -> checksum of the published rows.
CHECKSUMS: dict[tuple[str, str], str] = {
    ("task002_quoref_answer_generation", "train"): "ef8a47634fe1b463",
    ("task002_quoref_answer_generation", "test"): "c8c14c00b1a5aa84",
    ("task073_commonsenseqa_answer_generation", "train"): "b49a5cc2cf638b4c",
    ("task073_commonsenseqa_answer_generation", "test"): "de2286930a5edbac",
    ("task1290_xsum_summarization", "train"): "b22bd2c1e9531d6a",
    ("task1290_xsum_summarization", "test"): "98ec4816305b3827",
    ("task1510_evalution_relation_extraction", "train"): "698eebe1f917e498",
    ("task1510_evalution_relation_extraction", "test"): "49916d11b65a1f38",
    ("task1572_samsum_summary", "train"): "7541acdfebcf7c2f",
    ("task1572_samsum_summary", "test"): "4cb4d2f8f72398a2",
    ("task1590_diplomacy_text_generation", "train"): "cf4ad3cdd901dddf",
    ("task1590_diplomacy_text_generation", "test"): "839bbbb40d859f2d",
    ("task1687_sentiment140_classification", "train"): "e492b6c08a97e103",
    ("task1687_sentiment140_classification", "test"): "00a21f55de799719",
    ("task1729_personachat_generate_next", "train"): "8c9300b64800560e",
    ("task1729_personachat_generate_next", "test"): "2b0f607a4287430e",
    ("task181_outcome_extraction", "train"): "1e7be30cbafe5fd1",
    ("task181_outcome_extraction", "test"): "ba10432a7e038a2a",
    ("task363_sst2_polarity_classification", "train"): "bcd25e93d5c21109",
    ("task363_sst2_polarity_classification", "test"): "c1507f1f279f47b1",
    ("task511_reddit_tifu_long_text_summarization", "train"): "3589828675b77870",
    ("task511_reddit_tifu_long_text_summarization", "test"): "59dda654de05e94f",
    ("task591_sciq_answer_generation", "train"): "1191052e14cd6bde",
    ("task591_sciq_answer_generation", "test"): "a950518e48b5905d",
    ("task639_multi_woz_user_utterance_generation", "train"): "5f1f6fd2acce92f2",
    ("task639_multi_woz_user_utterance_generation", "test"): "53f9d1fe5409c702",
    ("task748_glucose_reverse_cause_event_detection", "train"): "9a91d5c84d05e7eb",
    ("task748_glucose_reverse_cause_event_detection", "test"): "01fbc8dfdb96c9d6",
    ("task875_emotion_classification", "train"): "5f7f2e047d804265",
    ("task875_emotion_classification", "test"): "661bb245514cd6c0",
    ("amazon", "train"): "a0468808710fc2b4",
    ("boolq", "train"): "9ad73d1d1db659a6",
    ("cb", "train"): "1aa1e5625b0b8a1a",
    ("cb", "test"): "fc4414159c0b4c70",
    ("copa", "train"): "be1ac09307a34f38",
    ("copa", "test"): "f0a5e22234bf56e7",
    ("mnli", "train"): "f68f17d51d57226e",
    ("sst2", "train"): "bd44d88862c49347",
    ("sst2", "test"): "221108b7c71c0682",
    ("wic", "train"): "b2561769f1b7dd6b",
    ("wic", "test"): "8cca43f7a4d7f7ae",
    ("imdb", "train"): "29f9490ed9510a1f",
    ("multirc", "train"): "09a8b16bb5f3fc97",
    ("C-STANCE", "train"): "1e333e537547708e",
    ("C-STANCE", "test"): "e1a550d3dc195974",
    ("FOMC", "train"): "05c504e35eaa324b",
    ("FOMC", "test"): "d388644e9bc3ebad",
    ("NumGLUE-cm", "train"): "a66432084a9863ea",
    ("NumGLUE-cm", "test"): "6649bdac7180842f",
    ("NumGLUE-ds", "train"): "26aa36f7c73a1e02",
    ("NumGLUE-ds", "test"): "fd53777725ff903f",
    ("ScienceQA", "test"): "07f0403f797e67af",
    ("20Minuten", "test"): "a7d445d2d263ae90",
}  # fmt: skip
