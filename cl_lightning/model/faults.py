"""Report what libraries raise about a model's files as one line: the model, the file and the cause."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from cl_lightning.common.errors import ConfigError, UserError, first_three
from cl_lightning.common.lfs import is_pointer

READ = (".json", ".jinja", ".safetensors", ".bin", ".model", ".txt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
#: Longest cause, in characters, that is printed.
LONGEST = 300


@contextmanager
def explained(name: str, part: str, folder: Path | None, trusted: bool) -> Iterator[None]:
    """Raise ConfigError for whatever is raised inside, but for errors that are lines already and a full memory.

    Args:
        name: of the model.
        part: "tokenizer" or "model", what is loaded or used inside.
        folder: of the model's files, which are then searched for the cause; None: not known.
        trusted: code of the model's own may run.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not trusted and "trust_remote_code" in str(error):
            raise ConfigError(
                f"model.backbone.name: {name} comes with code of its own; if you trust it: "
                "--model.backbone.trust_remote_code=true, or --trust-remote-code for commands that have it "
                "(in Python: trust_remote_code=True)"
            ) from None
        known = None
        if folder is not None and not _unreachable(error):
            known = next(_faults(folder, part), None) or _unknown(folder, error)
        raise ConfigError(
            f"model.backbone.name: the {part} in {name} cannot be used: {known or _cause(error)}"
        ) from error


def _unknown(folder: Path, error: Exception) -> str | None:
    """Return which setting has the value that transformers looked up in vain; None if that was not the cause."""
    file = folder / "config.json"
    if not isinstance(error, KeyError) or not file.is_file():
        return None
    value = error.args[0]
    named = next((name for name, held in _settings(json.loads(file.read_bytes())) if held == value), None)
    return named and f"config.json: {named} is {value!r}, which transformers {transformers.__version__} does not know"


def _settings(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _unreachable(error: BaseException | None) -> bool:
    """Return whether the hub refused a file, or could not be reached: the files in its cache are not at fault."""
    while error is not None and not isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError)):
        error = error.__cause__ or error.__context__
    return error is not None


def _cause(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + ' ..'}"


def _faults(folder: Path, part: str) -> Iterator[str]:
    """Yield what is wrong with the files of a model's folder, each in a few words with what to do."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in READ)
    for path in files:
        if is_pointer(path):
            yield f"{path.name} is a Git LFS pointer, not the file itself; run git lfs pull there"
    if not (folder / "config.json").is_file():
        yield "there is no config.json; name the folder that save_pretrained wrote"
    for path in files:
        if path.suffix == ".json" and (why := _not_an_object(path)):
            yield f"{path.name} {why}; copy it again"
    if part == "tokenizer" and not any((folder / name).is_file() for name in TOKENIZERS):
        yield "there is no tokenizer (tokenizer.json); save the model's tokenizer there too"
    if part == "model":
        yield from _faults_of_weights(folder, files)


def _faults_of_weights(folder: Path, files: list[Path]) -> Iterator[str]:
    for index in folder.glob("*.index.json"):
        listed = json.loads(index.read_bytes()).get("weight_map", {})
        if missing := sorted({file for file in listed.values() if not (folder / file).is_file()}):
            yield f"{index.name} names {first_three(missing)}, not in the folder; copy all files of the model"
    tensors = [path for path in files if path.suffix == ".safetensors"]
    if not tensors and not any(path.suffix == ".bin" for path in files):
        yield "there are no weights (model.safetensors); copy all files of the model"
    for path in tensors:
        try:
            safe_open(path, "pt")
        except SafetensorError as error:
            yield f"{path.name} is cut or damaged ({error}); copy it again"

    for path in (path for path in files if path.suffix == ".bin"):
        with path.open("rb") as file:
            begins = file.read(1)
        # PyTorch's format is a ZIP file and was, before that, a pickle.
        if not zipfile.is_zipfile(path) and begins != b"\x80":
            yield f"{path.name} is cut or damaged; copy it again"


def _not_an_object(path: Path) -> str | None:
    """Return why a JSON file holds no object, or None if it does."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"is no valid JSON ({error})"
    return None if isinstance(content, dict) else "holds no JSON object"
