r"""Talk to a trained model: `cl-lightning chat RUN`.

Each line is a separate prompt, written as in training. Earlier lines are not part of it, because models are trained on
single prompts. End a line with \ to continue the prompt on the next line. Ctrl-D ends the chat.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from cl_lightning.commands.arguments import Arguments
from cl_lightning.commands.trained_model import add_model, loading, print_cut_warnings
from cl_lightning.common.errors import ConfigError, UserError, nearest
from cl_lightning.common.terminal import say, say_error, say_part

if TYPE_CHECKING:
    from cl_lightning.export.loaded import LoadedModel

#: Loads the model after a task; None: after all finished tasks.
Load = Callable[[str | None], "LoadedModel"]


def parser() -> Arguments:
    """Build the argument parser."""
    made = Arguments("chat", __doc__)
    add_model(made)
    made.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help="sampling temperature; 0: greedy (default: 0)",
    )
    return made


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


class Chat:
    """Answers lines and runs commands, with one model in memory at a time.

    Args:
        load: loads a model, see `Load`.
        after: the task after which the model is used.
        options: options of `LoadedModel.stream`.
    """

    def __init__(self, load: Load, after: str | None, **options: Any) -> None:
        self.load, self.after, self.options = load, after, options
        self._loaded: LoadedModel | None = None
        self._of: str | None = None
        self.last = ""

    def model(self, after: str | None) -> "LoadedModel":
        """Return the model after a task. The model in memory is released first if it is another one."""
        if self._loaded is None or self._of != after:
            self._loaded = None
            from cl_lightning.common.memory import release_memory

            release_memory()
            self._loaded, self._of = self.load(after), after
        return self._loaded

    def take(self, line: str) -> bool:
        """Answer a line, or run it if it is a command. Returns False if the chat ends."""
        if not line.strip():
            return True
        try:
            if not line.startswith("/"):
                self.last = line
                self._answer(self.after)
                return True
            name, _, word = line[1:].strip().partition(" ")
            if name not in ACTIONS:
                raise ConfigError(
                    f"no command {name!r}; {nearest(name, ACTIONS)}. Put a space before / to send it as a prompt"
                )
            return ACTIONS[name](self, word.strip()) is not False
        except UserError as error:
            say_error(error)
            return True

    def _answer(self, after: str | None) -> None:
        loaded = self.model(after)
        with print_cut_warnings():
            loaded.stream(self.last, say_part, **self.options)
            say_part("\n")

    def task(self, word: str) -> None:
        """/task NAME or N: use the model after this task or after N tasks; without a name: show which is used"""
        if word:
            self.model(word)
            self.after = word
        say(self.model(self.after).description)

    def base(self, word: str) -> None:
        """/base: answer the last prompt with the untrained base model, to compare"""
        if not self.last:
            raise ConfigError("/base: there is no prompt to answer yet")
        say_part("base: ")
        self._answer("0")

    def help(self, word: str) -> None:
        """/help: list the commands"""
        for action in ACTIONS.values():
            say(action.__doc__)
        say("\\ at the end of a line: the prompt continues on the next line")

    def quit(self, word: str) -> bool:
        """/quit, or Ctrl-D: end the chat"""
        return False


#: Commands by name.
ACTIONS: dict[str, Callable[[Chat, str], bool | None]] = {
    "task": Chat.task,
    "base": Chat.base,
    "help": Chat.help,
    "quit": Chat.quit,
}


def main(argv: list[str]) -> None:
    """Chat as `argv` specifies, reading standard input line by line."""
    options = parser().parse_args(argv)
    from cl_lightning.common.noise import silence
    from cl_lightning.export.load import load

    silence()
    chat = Chat(
        partial(load, options.run, **loading(options)),
        options.after,
        max_new_tokens=options.max_new_tokens,
        max_prompt_tokens=options.max_prompt_tokens,
        temperature=options.temperature,
    )
    say(f"{chat.model(chat.after).description}. Each line is a separate prompt; /help lists commands, Ctrl-D ends.")
    for line in _lines():
        if not chat.take(line):
            break


def _lines() -> Iterator[str]:
    """Yield lines of standard input; a line that ends in a backslash is joined with the next."""
    begun: list[str] = []
    terminal = sys.stdin.isatty()
    while True:
        try:
            line = input(("... " if begun else "> ") if terminal else "")
        except EOFError:
            break
        except UnicodeDecodeError:
            raise ConfigError("standard input: not UTF-8 text") from None
        if line.endswith("\\"):
            begun.append(line[:-1])
            continue
        yield "\n".join([*begun, line])
        begun = []
    if begun:
        yield "\n".join(begun)
    if terminal:
        say("")
