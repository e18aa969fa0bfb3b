"""Scores a finished run again, without training: `cl-lightning score RUN --metrics official rouge_l`.

--metrics re-scores the stored predictions. --evaluate generates new predictions with the stored adapters and the base
model, for all of R, also above the diagonal. Results are written to RUN/rescored/<scheme> and RUN/evaluated, which
`report` and `compare` read like runs; the run itself is never changed.
"""

from argparse import Namespace
from pathlib import Path

from cl_lightning.commands.arguments import Arguments, add_base
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.terminal import say
from cl_lightning.metrics.parity import DEVIATIONS, WITHOUT_SWITCH
from cl_lightning.metrics.registry import METRICS
from cl_lightning.results.report import show
from cl_lightning.results.rescore import rescore

SCHEMES = "own, official, a metric for all tasks, or TASK=METRIC[,TASK=METRIC]"


def parser() -> Arguments:
    """Build the argument parser."""
    made = Arguments("score", __doc__)
    made.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run folder")
    made.add_argument("--metrics", nargs="+", default=[], metavar="SCHEME", help=SCHEMES)
    made.add_argument("--evaluate", action="store_true", help="generate new predictions with the stored adapters")
    made.add_argument("--root", metavar="FOLDER", help="folder of the data, if it has moved")
    made.add_argument("--batch-size", type=int, metavar="N", help="prompts per generation batch of --evaluate")
    add_base(made)
    made.add_argument(
        "--list", action="store_true", help="list all metrics, and how the official ones differ from ours"
    )
    return made


def run(options: Namespace) -> None:
    """Score as the options say and print the tables.

    Raises:
        UserError: unusable options, data or run.
    """
    if options.list:
        for line in listed().split("\n"):
            say(line)
        return
    if options.run is None or not (options.metrics or options.evaluate):
        raise ConfigError(f"say which run, and --evaluate or --metrics ({SCHEMES})")
    source = options.run
    if options.evaluate:
        from cl_lightning.common.noise import silence
        from cl_lightning.results.reevaluate import evaluate, moved

        silence()
        source = evaluate(
            options.run,
            options.root,
            options.batch_size,
            base=options.base,
            allow=options.allow,
            trust_remote_code=options.trust_remote_code,
        )
        show(source)
        for after, task, old, new in moved(options.run, source):
            say(f"differs from the run: {task} after {after} {new:.2f}, was {old:.2f}")
    for scheme in options.metrics:
        show(rescore(source, scheme, options.root, allow=options.allow))


def listed() -> str:
    """List all metrics, one line each, then the differences from the official evaluators."""
    lines = [f"{name:26} {(m.__doc__ or '').strip().splitlines()[0]}" for name, m in METRICS.items()]
    lines += ["", "Where ours differ from the official evaluators (data.metrics=official takes theirs):"]
    lines += [f"{d.ours} / {d.official}: {d.what}; {d.why}" for d in DEVIATIONS]
    lines += ["", "Differences that no switch brings back:", *WITHOUT_SWITCH]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Score the run that `argv` names."""
    run(parser().parse_args(argv))
