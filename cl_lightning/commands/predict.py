"""Answer the prompts of a file: `cl-lightning predict RUN prompts.jsonl --out answers.jsonl`.

Each row of the file (.jsonl or .csv) has a prompt, written like the tasks' prompts and without chat template. OUT, of
the same kind, contains the same rows in the same order with one more field, "prediction". In CSV, a prediction that a
spreadsheet would run as a formula is preceded by '. Answers so far are saved beside OUT, as OUT's name with ".part".
"""

import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_lightning.commands.arguments import Arguments, positive
from cl_lightning.commands.trained_model import add_model, loading, print_cut_warnings
from cl_lightning.common import stopping
from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.common.files import plain_cell, refuse_existing, to_csv, to_jsonl, write_output
from cl_lightning.common.terminal import say
from cl_lightning.common.wording import counted
from cl_lightning.data.benchmarks.json_files import text_of
from cl_lightning.data.files.read import Row, read_rows

#: Batches after which the answers so far are saved.
CHUNK = 16
#: Name of the added field.
FIELD = "prediction"


def parser() -> Arguments:
    """Build the argument parser."""
    made = Arguments("predict", __doc__)
    add_model(made)
    made.add_argument("file", type=Path, metavar="FILE", help=f"file of prompts: {' or '.join(WRITERS)}")
    made.add_argument("--out", type=Path, required=True, metavar="OUT", help="file for the answers, of FILE's kind")
    made.add_argument(
        "--prompt-field", default="prompt", metavar="NAME", help="field with the prompt (default: prompt)"
    )
    made.add_argument("--batch-size", type=positive, default=16, metavar="N", help="prompts per batch (default: 16)")
    made.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return made


def main(argv: list[str]) -> None:
    """Answer the prompts as `argv` specifies."""
    options = parser().parse_args(argv)
    _check_files(options)
    rows = list(read_rows(options.file))
    prompts = [_prompt(row, where, options.prompt_field) for where, row in rows]
    from cl_lightning.common.noise import silence
    from cl_lightning.export.load import load
    from cl_lightning.export.loaded import PromptCutWarning

    silence()
    loaded = load(options.run, options.after, **loading(options))
    say(f"{counted(len(rows), 'prompt')} of {options.file}, answered by {loaded.description}")
    length = {"max_new_tokens": options.max_new_tokens, "max_prompt_tokens": options.max_prompt_tokens}
    with print_cut_warnings():
        loaded.check(prompts, **length, names=[where for where, _ in rows])
    predictions, part, write = [], _part(options.out), WRITERS[options.out.suffix.lower()]
    size = CHUNK * options.batch_size
    for start in range(0, len(prompts), size):
        with warnings.catch_warnings(action="ignore", category=PromptCutWarning):
            predictions += loaded.generate(prompts[start : start + size], batch_size=options.batch_size, **length)
        if len(predictions) < len(rows):
            write_output(part, write(rows[: len(predictions)], predictions))
            stopping.set_message(f"the first {len(predictions)} of {counted(len(rows), 'answer')} are in {part}")
    refuse_existing("--out", options.out, options.overwrite)  # it may have been created in the meantime
    write_output(options.out, write(rows, predictions))
    part.unlink(missing_ok=True)
    say(f"written: {options.out}")


def _part(out: Path) -> Path:
    """Return the file with the answers so far."""
    return out.with_name(f"{out.stem}.part{out.suffix}")


def _check_files(options: Namespace) -> None:
    """Raise ConfigError if a file's kind is not supported, or OUT exists or is FILE."""
    file, out = options.file, options.out
    if file.suffix.lower() not in WRITERS:
        raise ConfigError(f"{file}: unsupported file type; predict reads {' and '.join(WRITERS)}")
    if out.suffix.lower() != file.suffix.lower():
        raise ConfigError(f"--out: {out} must end in {file.suffix}, as {file} does")
    refuse_existing("--out", out, options.overwrite)
    refuse_existing("--out", _part(out), options.overwrite)  # answers of a command that was stopped
    if out.exists() and file.exists() and out.samefile(file):
        raise ConfigError(f"--out: {out} is the file of prompts itself; name another")


def _prompt(row: dict[str, Any], where: str, field: str) -> str:
    if FIELD in row:
        raise DataError(f"{where}: already has a field {FIELD!r}, which the answers would replace; rename it")
    return text_of(row, field, where)


def _jsonl(rows: list[Row], predictions: list[str]) -> bytes:
    return to_jsonl([{**row, FIELD: text} for (_, row), text in zip(rows, predictions, strict=True)])


def _csv(rows: list[Row], predictions: list[str]) -> bytes:
    cells = [[*row.values(), plain_cell(text)] for (_, row), text in zip(rows, predictions, strict=True)]
    return to_csv([*rows[0][1], FIELD], cells, plain=False)  # the user's own cells stay as they are


#: The file's suffix -> the function that formats the answers.
WRITERS: dict[str, Callable[[list[Row], list[str]], bytes]] = {".jsonl": _jsonl, ".csv": _csv}
