"""Presets: the tasks that measure general ability, in YAML files of this package or of the user.

A preset maps settings (GP, IP, ..) to tasks by name, each with lm-eval's task, metric and number of demonstrations:

    GP:
      BoolQ: {task: boolq, metric: acc}
      GSM8K: {task: gsm8k, metric: "exact_match,flexible-extract", shots: 0}

A setting's value is the mean over its tasks; its difference from the base model's is TRACE's Delta R^G. No torch and no
lm-eval here.
"""

from dataclasses import dataclass
from pathlib import Path

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.paths import in_home
from cl_lightning.common.yaml_files import parse_yaml

FOLDER = Path(__file__).parent / "preset_files"
#: Name of a setting's mean in tables.
MEAN = "mean"


@dataclass(frozen=True)
class Entry:
    """One task of a preset.

    Attributes:
        task: lm-eval's name of a task or group.
        metric: lm-eval's key, e.g. "acc,none" or "exact_match,strict-match".
        shots: demonstrations in the prompt.
    """

    task: str
    metric: str
    shots: int = 0


#: Setting -> display name of the task -> entry.
Preset = dict[str, dict[str, Entry]]


def shipped() -> list[str]:
    """List the presets of this package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_preset(name: str) -> Preset:
    """Read a preset of this package by name, or a YAML file.

    Raises:
        ConfigError: there is no such preset or file, or it is malformed.
    """
    path = in_home(name, "observers.general.preset") if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"observers.general: there is no preset or file {name!r}; {nearest(name, shipped())}")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: must map settings (GP, IP) to tasks")
    return {str(setting): _setting(path, str(setting), tasks) for setting, tasks in content.items()}


def _setting(path: Path, setting: str, tasks: object) -> dict[str, Entry]:
    if not isinstance(tasks, dict) or not tasks:
        raise ConfigError(f"{path}: {setting} must map names to tasks")
    if MEAN in tasks:
        raise ConfigError(f"{path}: {setting}: the name {MEAN!r} is reserved for the mean; rename the task")
    return {str(name): _entry(f"{path}: {setting}: {name}", options) for name, options in tasks.items()}


def _entry(where: str, options: object) -> Entry:
    if not isinstance(options, dict) or not {"task", "metric"} <= options.keys() <= {"task", "metric", "shots"}:
        raise ConfigError(f"{where}: expected {{task: .., metric: .., shots: ..}}, shots optional")
    shots = options.get("shots", 0)
    if not isinstance(shots, int) or isinstance(shots, bool) or shots < 0:
        raise ConfigError(f"{where}: shots: {shots!r} must be 0 or more")
    metric = str(options["metric"])
    return Entry(str(options["task"]), metric if "," in metric else f"{metric},none", shots)
