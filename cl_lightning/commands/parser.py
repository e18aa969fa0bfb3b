"""The parser of `cl-lightning run`: Lightning CLI (jsonargparse, omegaconf) with named slots for task callbacks."""

from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

from jsonargparse import set_dumper
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf.errors import OmegaConfBaseException

from cl_lightning.commands.interpolation import ENVIRONMENT, as_written, put_back, unresolved
from cl_lightning.commands.option_errors import OptionParser, misfit
from cl_lightning.commands.precheck import USAGE
from cl_lightning.commands.task_trainer import TaskTrainer, TaskTrainers
from cl_lightning.common.errors import ConfigError, user_error_in
from cl_lightning.common.numbers import Seed
from cl_lightning.common.yaml_files import dump_yaml, parse_yaml
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.settings import SequenceSettings
from cl_lightning.sequence.slots import SLOTS


class _Parser(OptionParser, LightningArgumentParser):
    """Lightning's parser with our errors. What it dumps has no values of the environment."""

    #: The configuration before interpolation, if it names the environment.
    written: dict[str, Any] | None = None

    def _parse_common(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        if self._main and ENVIRONMENT in str(cfg):
            self.written = parse_yaml(super().dump(cfg, skip_validation=True, skip_none=False), "configuration")
        files = cfg.get("config")
        try:
            parsed = super()._parse_common(cfg, *args, **kwargs)
        except OmegaConfBaseException as error:
            raise unresolved(error) from None
        if files is not None and "config" not in parsed:
            parsed.config = files  # interpolation drops it, and it names the experiment
        return parsed

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """See the base class."""
        text = super().dump(*args, **kwargs)
        return text if self.written is None else as_written(text, self.written)


class ContinualCLI(LightningCLI):
    """Parses the options and builds their classes; the sequence builds its own Trainer for each task."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        set_dumper(kwargs["parser_mode"], dump_yaml)
        parser = _Parser(main=True, **{"dump_header": None, **kwargs})
        parser.add_argument(
            "-c", "--config", action="config", help="a configuration file; later ones override earlier ones"
        )
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=Seed, default=self.seed_everything_default, help="see data.seed")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        slots = dict[str, TaskCallback | None]
        parser.add_argument(
            "--boundary", type=slots, default={}, help="task-boundary callbacks by slot; null empties a slot"
        )
        parser.add_argument("--observers", type=slots, default={}, help="callbacks that only observe, by name")
        parser.add_class_arguments(SequenceSettings, "sequence")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """See the base class, whose parser lets null pass for the options of sections."""
        super().parse_arguments(parser, args)
        for section, kind in SECTION_CLASSES.items():
            _check_filled(section, kind, self.config)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if user_error := user_error_in(error):
                raise user_error from None
            if reason := misfit(str(error)):
                raise ConfigError(reason) from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> None:
        """Check the Trainer's options; the sequence builds its Trainers itself."""
        self.trainers.check()

    @property
    def trainers(self) -> TaskTrainers:
        """Makes a Trainer for each task, from the Trainer's options."""
        options, every = vars(self.config_init.trainer), self.config_init.sequence.log_every_n_steps
        return TaskTrainers(options, every, self.datamodule)

    def slots(self, name: str) -> dict[str, TaskCallback]:
        return {slot: callback for slot, callback in (self.config_init[name] or {}).items() if callback is not None}

    def resolved(self) -> str:
        """Dump the resolved configuration as YAML. `sequence.fresh` is false, or running it would delete the run."""
        config = self.config.clone()
        config.sequence.fresh = False
        return self.parser.dump(config, skip_none=False)

    def as_written(self, section: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return options of a section, with those that name the environment as they were written."""
        return put_back(options, (self.parser.written or {}).get(section))


class Resolved(ContinualCLI):
    """The resolved configuration of objects that a script built, which are described as options; builds none itself.

    Attributes:
        options: the description. Of `trainer`, what is not plain (callbacks, loggers, ..) stays as it is described.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = {**options, "trainer": {k: v for k, v in options["trainer"].items() if not _has_objects(v)}}
        self._objects = {name: v for name, v in options["trainer"].items() if _has_objects(v)}
        super().__init__(ContinualLM, TaskSequence, **_SETTINGS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_object(self._options)

    def instantiate_classes(self) -> None:
        """Build nothing."""

    @property
    def plain(self) -> dict[str, Any]:
        """All options, plain."""
        return self._whole(self.config.as_dict())

    def resolved(self) -> str:
        """See the base class."""
        return dump_yaml(self._whole(parse_yaml(super().resolved(), "configuration")))

    def _whole(self, config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "trainer": {**config["trainer"], **self._objects}}


def _check_filled(section: str, kind: type, config: Any) -> None:
    """Raise ConfigError for an option of a section that is null and may not be."""
    for name, hint in get_type_hints(kind.__init__).items():
        option = f"{section}.{name}"
        if is_dataclass(hint):
            _check_filled(option, hint, config)
        elif name != "return" and config.get(option, "") is None and type(None) not in get_args(hint):
            raise ConfigError(f"{option} is empty; give it a value, or leave it out")


def _has_objects(value: Any) -> bool:
    """Whether a described value is an object, or a list of some."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_objects, value)))


#: Sections whose options are those of a class.
SECTION_CLASSES = {"model": ContinualLM, "data": TaskSequence, "sequence": SequenceSettings}

_SETTINGS: dict[str, Any] = {
    "trainer_class": TaskTrainer,
    "run": False,
    "save_config_callback": None,
    "seed_everything_default": 0,
    "auto_configure_optimizers": False,
    "parser_kwargs": {
        "parser_mode": "omegaconf+",
        "usage": USAGE,
        "description": "Train an LLM on a sequence of tasks.",
    },
}


def make_cli() -> ContinualCLI:
    """Parse `sys.argv` and build the model, the data module and the callbacks."""
    for package in map(import_module, SLOTS.values()):
        for name in package.EXPORTS:
            getattr(package, name)  # class_path takes the short names of imported classes
    return ContinualCLI(ContinualLM, TaskSequence, **_SETTINGS)
