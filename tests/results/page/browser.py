"""A headless Chromium for tests: what a page asks for, what it logs, and how wide it is. DevTools protocol by pipe."""

import fcntl
import json
import os
import shutil
import signal
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from select import select
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
#: Chromium reads commands from the first of these descriptors and writes answers to the second.
READS, WRITES = 3, 4
#: Seconds to wait for an answer.
PATIENCE = 120
#: Package that holds the script of axe-core, which finds what keeps people out of a page. It is not imported.
AXE_PACKAGE = "axe-playwright-python"
AXE = "axe_playwright_python/axe.min.js"
#: Rules of WCAG 2.2, levels A and AA, and what is held to be good practice (landmarks, the order of headings).
AUDIT = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.flatMap(
  rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 200)}`)))"""


def axe() -> str | None:
    """The script of axe-core, if its package is installed."""
    try:
        return distribution(AXE_PACKAGE).locate_file(AXE).read_text()
    except PackageNotFoundError:
        return None


@dataclass
class Seen:
    """What happened while a page was open.

    Attributes:
        widths: of the page's content and of the window, in pixels.
        faults: what axe finds, where it was asked: "rule: the part of the page".
        requests: URLs other than the page's own and those that hold their data.
        messages: of the console.
    """

    widths: tuple[int, int] = (0, 0)
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


class Browser:
    """A process of Chromium with a profile of its own in `folder`. Use it as a context."""

    def __init__(self, folder: Path) -> None:
        ends = [*os.pipe(), *os.pipe()]
        # Above the numbers that the process gets them by.
        reads, self._to, self._from, writes = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
        options = (
            "--headless=new",
            "--hide-scrollbars",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
        )
        null = os.open(os.devnull, os.O_RDWR)
        moves = [
            (os.POSIX_SPAWN_DUP2, null, 2),
            (os.POSIX_SPAWN_DUP2, reads, READS),
            (os.POSIX_SPAWN_DUP2, writes, WRITES),
        ]
        argv = [str(PROGRAM), *options, f"--user-data-dir={folder}"]
        self._process = os.posix_spawn(argv[0], argv, os.environ, file_actions=moves, setpgroup=0)
        for end in (*ends, reads, writes, null):
            os.close(end)
        self._number, self._rest, self._events = 0, b"", list[dict[str, Any]]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)

    def open(self, page: Path, width: int, dark: bool = False, axe: str | None = None) -> Seen:
        """Open a page in a window of this width, with all that is folded unfolded, and run axe's script on it."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Log", "Runtime", "Page"):
            self._ask(f"{domain}.enable", session)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", session, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", session, features=[scheme])
        self._events.clear()
        self._ask("Page.navigate", session, url=page.as_uri())
        # A document that has just been begun is empty, and is called complete.
        ready = f"{page.as_uri()} complete true"
        while self._value(session, "`${document.URL} ${document.readyState} ${document.body !== null}`") != ready:
            pass
        script = (
            "for (const each of document.querySelectorAll('details')) each.open = true;"
            "[document.documentElement.scrollWidth, innerWidth]"
        )
        seen = Seen(tuple(self._value(session, script)))
        if axe is not None:
            self._ask("Runtime.evaluate", session, expression=axe)
            seen.faults = self._value(session, AUDIT)
        for event in self._events:
            self._note(event["method"], event["params"], page, seen)
        self._ask("Target.closeTarget", targetId=target)
        return seen

    def _note(self, method: str, output: dict[str, Any], page: Path, seen: Seen) -> None:
        if method == "Network.requestWillBeSent":
            url = output["request"]["url"]
            seen.requests += [url] if url != page.as_uri() and not url.startswith("data:") else []
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            seen.messages.append(json.dumps(output))

    def _value(self, session: str, expression: str) -> Any:
        """The value of an expression, or of its promise."""
        options = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        return self._ask("Runtime.evaluate", session, **options)["result"].get("value")

    def _ask(self, method: str, session: str | None = None, **options: Any) -> dict[str, Any]:
        """The answer to a command; what else comes before it is kept as an event."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": options} | (
            {"sessionId": session} if session else {}
        )
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while (output := self._next()).get("id") != self._number:
            self._events.append(output)
        assert "result" in output, output
        return output["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select([self._from], [], [], PATIENCE)[0], "Chromium does not answer"
            data = os.read(self._from, 1 << 16)
            assert data, "Chromium ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
