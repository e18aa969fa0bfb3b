"""Commands: one module each, with `main(argv)`. The only room that imports `callbacks`."""

from typing import NamedTuple


class Command(NamedTuple):
    """A command's description, and the message when a signal ends it."""

    about: str
    stopped: str


#: Message of commands that only read; they end silently when their output is closed.
READ_ONLY = "nothing was changed"
#: Commands by name, as `cl-lightning --help` lists them. Module names have underscores for dashes.
COMMANDS = {
    "run": Command(
        "train on a sequence of tasks, or continue an interrupted run",
        "nothing had started, and what was saved before is kept; run the same command again",
    ),
    "sweep": Command(
        "run an experiment for several values of an option",
        "finished runs are kept; run the same command again to go on",
    ),
    "plan": Command("say what an experiment takes: memory, steps, disk, time", READ_ONLY),
    "experiments": Command("list the experiments that `run` knows by name", READ_ONLY),
    "report": Command("print a run's tables and write its page of charts", "the run was not changed"),
    "compare": Command("compare several runs in tables and charts", READ_ONLY),
    "study": Command("compare methods in a grid of runs", "run the same command again to go on"),
    "score": Command("score a finished run again without training", "the run is as it was; run the same command again"),
    "verify": Command("check that a run folder is undamaged", READ_ONLY),
    "export": Command(
        "write a run's model for PEFT, transformers, llama.cpp or Ollama",
        "nothing was written; run the same command again",
    ),
    "predict": Command("answer the prompts of a file", "no answer was written; run the same command again"),
    "chat": Command("talk to a trained model", READ_ONLY),
    "dashboard": Command("make a wandb workspace with panels for runs", READ_ONLY),
    "purge": Command("remove training texts from a run folder", "run the same command again to finish"),
    "mine": Command("find sequences of conflicting tasks in a pool", "nothing was written; run the same command again"),
    "data": Command(
        "download published data whose terms allow it", "what has arrived is kept; run the same command again to go on"
    ),
    "data-check": Command("report problems of data, task by task", READ_ONLY),
}
