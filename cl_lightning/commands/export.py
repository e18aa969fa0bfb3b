"""Write a run's model for other programs: `cl-lightning export RUN --format=peft`.

peft: all branches as one LoRA adapter for PEFT. merged: a plain model for transformers. gguf: one file for llama.cpp
and Ollama. native: the branches unchanged, for any strategy, read by cl_lightning.load.

By default, the model after the last finished task is written to RUN/export/FORMAT. A folder that is not empty is
refused.
"""

from importlib import import_module
from pathlib import Path

from cl_lightning.commands.arguments import Arguments, add_base, positive
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.paths import below
from cl_lightning.common.terminal import say
from cl_lightning.export import FORMATS
from cl_lightning.export.folder import refuse_filled, written_whole
from cl_lightning.sequence.folder import read_record
from cl_lightning.sequence.run_files import EXPORTED


def parser() -> Arguments:
    """Build the argument parser."""
    made = Arguments("export", __doc__)
    made.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    made.add_argument("--format", choices=FORMATS, required=True, help="format to write")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--task", metavar="NAME", help="export only this task's branch")
    which.add_argument(
        "--after", metavar="TASK", help="the model after this task, or after this many; 0: the base model"
    )
    made.add_argument("--rank", type=positive, metavar="R", help="recompress each layer's update to this rank")
    made.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of merged and gguf weights (default: the run's)",
    )
    made.add_argument("--dequantize", action="store_true", help="merge into the dequantised weights of a 4-bit base")
    made.add_argument("--out", type=Path, metavar="FOLDER", help="a new or empty folder (default: RUN/export/FORMAT)")
    add_base(made)
    return made


def main(argv: list[str]) -> None:
    """Export a run as `argv` specifies, and print what was written."""
    options = parser().parse_args(argv)
    read_record(options.run)
    part = options.task or (f"after-{options.after}" if options.after is not None else "")
    name = f"{EXPORTED}/{options.format}{f'-{part}' if part else ''}"
    out = options.out or below(options.run, name)
    _refuse_inside(options.run, out)
    refuse_filled(out)
    from cl_lightning.common.noise import silence
    from cl_lightning.export.trained import Request

    silence()
    chosen = {n: v for n, v in vars(options).items() if n not in ("format", "out")}
    with written_whole(out) as scratch:
        facts = import_module(FORMATS[options.format]).export(Request(**chosen), scratch)
    for line in facts:
        say(line)
    say(f"written: {out}")


def _refuse_inside(run: Path, out: Path) -> None:
    """Refuse an output folder among the run's own files. Raises ConfigError."""
    whole, inside = run.resolve(), out.resolve()
    if inside.is_relative_to(whole / EXPORTED) and inside != whole / EXPORTED:
        return
    if inside.is_relative_to(whole):
        raise ConfigError(f"--out: {out} is inside the run folder; choose a folder outside it or in {run / EXPORTED}")
