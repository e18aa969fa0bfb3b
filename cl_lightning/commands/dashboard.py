"""Makes a wandb workspace with panels for runs of this project: `cl-lightning dashboard ENTITY/PROJECT`.

The panels are those of `dashboard.yaml`. Without a wandb key nothing is made, and the panels are listed.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_lightning.commands.arguments import Arguments
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.packages import need
from cl_lightning.common.terminal import say
from cl_lightning.common.yaml_files import parse_yaml

FILE = Path(__file__).with_suffix(".yaml")
NAME = "cl-lightning"


@dataclass(frozen=True)
class Panel:
    """A panel of the definition: its kind, its title, and the logged keys that it shows."""

    kind: str
    title: str
    keys: list[str]


def definition() -> dict[str, list[Panel]]:
    """Read the panels by section."""
    found = parse_yaml(FILE.read_text(encoding="utf-8"), str(FILE))
    return {section: [Panel(**panel) for panel in panels] for section, panels in found.items()}


def pattern(key: str) -> str:
    """Return the regular expression of a key with *."""
    return f"^{re.escape(key).replace(re.escape('*'), '.+')}$"


def main(argv: list[str]) -> None:
    """Make the workspace, or list its panels without a key."""
    parser = Arguments("dashboard", __doc__)
    parser.add_argument("target", metavar="ENTITY/PROJECT", help="a wandb project and its owner")
    target = parser.parse_args(argv).target
    entity, _, project = target.partition("/")
    if not entity or not project or "/" in project:
        raise ConfigError(f"dashboard: {target!r} is not ENTITY/PROJECT, a wandb project and its owner")
    if not _has_key():
        for line in listed(entity, project):
            say(line)
        return
    made = workspace(entity, project)
    try:
        say(f"dashboard: {made.save().url}")
    except Exception as error:  # whatever wandb raises on a wrong project, owner or key
        raise ConfigError(f"dashboard: {target}: wandb made none ({' '.join(str(error).split())})") from error


def listed(entity: str, project: str) -> Iterator[str]:
    """List what would be made."""
    yield f"no wandb key (wandb login, or WANDB_API_KEY), so nothing is made in {entity}/{project}. With one:"
    for section, panels in definition().items():
        yield section
        yield from (f"  {panel.kind:<9} {panel.title}: {', '.join(panel.keys)}" for panel in panels)


def workspace(entity: str, project: str) -> Any:
    """Build the workspace, which its `save` makes in wandb. Raises ConfigError without the package for it."""
    need("wandb_workspaces", "dashboard", "wandb-workspaces")
    from wandb_workspaces import workspaces

    sections = [
        workspaces.Section(name=section, panels=[KINDS[panel.kind](panel) for panel in panels], is_open=True)
        for section, panels in definition().items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=NAME, sections=sections)


def _has_key() -> bool:
    import wandb

    return wandb.login(prompt=False)


def _lines(panel: Panel) -> Any:
    from wandb_workspaces.reports.v2 import LinePlot

    plain = [key for key in panel.keys if "*" not in key]
    patterns = "|".join(pattern(key) for key in panel.keys if "*" in key)
    return LinePlot(title=panel.title, x="cl/step", y=plain, metric_regex=patterns or None)


def _points(panel: Panel) -> Any:
    from wandb_workspaces.reports.v2 import ScatterPlot, SummaryMetric

    return ScatterPlot(title=panel.title, **dict(zip("xy", map(SummaryMetric, panel.keys), strict=True)))


def _pictures(panel: Panel) -> Any:
    from wandb_workspaces.reports.v2 import MediaBrowser

    return MediaBrowser(title=panel.title, media_keys=panel.keys)


def _table(panel: Panel) -> Any:
    from wandb_workspaces.reports.v2 import WeavePanelSummaryTable

    return WeavePanelSummaryTable(table_name=panel.keys[0])


KINDS: dict[str, Callable[[Panel], Any]] = {
    "lines": _lines,
    "points": _points,
    "pictures": _pictures,
    "table": _table,
}
