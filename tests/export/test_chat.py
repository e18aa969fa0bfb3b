"""`cl-lightning chat`: answers as they come, other models of the run, what a model writes never obeyed."""

import io
import multiprocessing
import os
import pty
import re
import sys
from collections.abc import Callable

import pytest

import cl_lightning
from cl_lightning.__main__ import main
from cl_lightning.common.terminal import printable
from cl_lightning.export.loaded import LoadedModel
from tests.commands.test_cli import Result, launch
from tests.export.tiny import TASKS, Trained

ASKED = "Was the film any good?"
Talk = Callable[..., Result]


@pytest.fixture
def talk(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """`cl-lightning chat` on a run, with these lines on standard input."""

    def with_lines(*lines: str, options: tuple[str, ...] = (), run: str = "SeqLoRA") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return launch("chat", str(trained(run)), "--max-new-tokens=6", *options)

    return with_lines


def answered(trained: Trained, prompt: str, after: int, run: str = "SeqLoRA") -> str:
    text = cl_lightning.load(trained(run), after).generate([prompt], max_new_tokens=6)[0]
    return "\n".join(map(printable, text.split("\n")))


def test_each_line_is_answered_by_itself_by_the_model_that_was_chosen(trained: Trained, talk: Talk) -> None:
    result = talk(ASKED, "/base", "/task 1", ASKED, "", f"/task {TASKS[1]}", ASKED, "/task")
    assert (result.code, result.err) == (0, "")
    now, first, base = (answered(trained, ASKED, after) for after in (2, 1, 0))
    assert len({now, first, base}) == 3, "the control"
    model = "random-llama with SeqLoRA after {}, in float64 on cpu"
    last, one = model.format("NumGLUE-cm (2 tasks learnt)"), model.format("FOMC (1 task learnt)")
    opening = f"{last}. Each line is a separate prompt; /help lists commands, Ctrl-D ends."
    assert result.out == "\n".join([opening, now, f"base: {base}", one, first, last, now, last, ""])


def test_a_prompt_of_several_lines(trained: Trained, talk: Talk) -> None:
    result = talk("Is it good?\\", "Answer:\\", "", "/quit", "never asked")
    assert result.out.split("\n", 1)[1] == answered(trained, "Is it good?\nAnswer:\n", 2) + "\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/tsak 1", "no command 'tsak'; did you mean task? valid: base, help, quit, task. Put a space before"),
        ("/task 9", "after=9 is not in 0..2, the number of finished tasks"),
        ("/task FOCM", "no finished task is called 'FOCM'; did you mean FOMC"),
        ("/base", "/base: there is no prompt to answer yet"),
        ("word " * 600, "exceed the model's context of 2048; lower max_new_tokens or max_prompt_tokens"),
    ],
)
def test_what_is_wrong_is_one_line_and_the_chat_goes_on(trained: Trained, talk: Talk, line: str, said: str) -> None:
    result = talk(line, ASKED, options=("--max-prompt-tokens=5000",) if line.startswith("word") else ())
    assert result.code == 0
    assert said in result.line
    assert result.out.split("\n", 1)[1] == answered(trained, ASKED, 2) + "\n"


def test_help_lists_the_commands(talk: Talk) -> None:
    result = talk("/help")
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == ["/task", "/base:", "/help:", "/quit,", "\\"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--after=9",), "after=9 is not in 0..2"),
        (("--temperature=-1",), "-1 must be 0 or more"),
        (("--temperature=hot",), "hot must be 0 or more"),
    ],
)
def test_what_is_wrong_at_the_start_ends_it(talk: Talk, options: tuple[str, ...], said: str) -> None:
    result = talk(ASKED, options=options)
    assert (result.code, result.out) == (2, "")
    assert said in result.line


def test_a_run_of_tasks_alone_asks_which(talk: Talk) -> None:
    result = talk(ASKED, run="alone")
    assert result.code == 2
    assert "after=1 is the first task's" in result.line


def test_terminal_codes_of_a_model_are_shown(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def wicked(self: LoadedModel, prompt: str, give: Callable[[str], None], **_: object) -> None:
        for piece in ("red \x1b", "[31m and\r", "\x07 a bell\n\tnext", "\u202e"):
            give(piece)

    monkeypatch.setattr(LoadedModel, "stream", wicked)
    said = talk(ASKED).out.split("\n", 1)[1]
    assert said == "red \\x1b[31m and\\r\\x07 a bell\n\tnext\\u202e\n"


def test_in_a_terminal(trained: Trained) -> None:
    """A process of its own on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    argv = ["cl-lightning", "chat", str(trained("SeqLoRA")), "--max-new-tokens=6"]
    process = multiprocessing.get_context("forkserver").Process(target=talks_in, args=(os.ttyname(theirs), argv))
    process.start()
    seen = until(ours, b"> ")
    os.write(ours, ASKED.encode() + b"\n")
    seen += until(ours, b"> ")
    os.write(ours, b"\x04")  # Ctrl-D
    process.join(60)
    assert process.exitcode == 0
    os.close(theirs)
    os.close(ours)
    lines = re.split(r"\r?\n", seen.decode())
    assert lines[0].startswith("random-llama with SeqLoRA after NumGLUE-cm")
    asked = lines.index(f"> {ASKED}")
    assert " ".join(map(str.strip, lines[:asked])).endswith("Ctrl-D ends.")
    assert "\n".join(lines[asked + 1 :]).removesuffix("\n> ") == answered(trained, ASKED, 2, "SeqLoRA")


def talks_in(terminal: str, argv: list[str]) -> None:
    """Run the command with this terminal as its own."""
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)
    for standard in range(3):
        os.dup2(descriptor, standard)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = argv
    sys.exit(main())


def until(descriptor: int, end: bytes) -> bytes:
    seen = b""
    while not seen.endswith(end):
        seen += os.read(descriptor, 1024)
    return seen
