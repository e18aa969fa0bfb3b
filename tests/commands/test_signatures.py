"""Options that are refused before torch is imported are those that the parser refuses, in the same words."""

from importlib import import_module
from inspect import signature
from itertools import product

import pytest

from cl_lightning.commands import parser, precheck
from cl_lightning.commands.option_errors import OptionParser
from cl_lightning.commands.signatures import check_value, parameters
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.sequence.slots import SLOTS
from tests.commands.test_cli import configs, parse

SECTIONS = {**parser.SECTION_CLASSES, "trainer": parser.TaskTrainer}


def exported() -> list[str]:
    """The classes that options can name, as module.Class."""
    packages = {home: import_module(home).EXPORTS for home in SLOTS.values()}
    return [f"{home}.{where}.{n}" for home, names in packages.items() for n, where in names.items() if n[0].isupper()]


@pytest.mark.parametrize("path", [*exported(), *precheck.CLASSES.values()])
def test_the_options_of_a_class_are_those_of_the_parser(path: str) -> None:
    module, _, name = path.rpartition(".")
    real = OptionParser(main=True)
    real.add_class_arguments(getattr(import_module(module), name), "its", fail_untyped=False)
    known = real.get_defaults(skip_validation=True).keys()
    assert set(parameters(path)) == {option.split(".")[1] for option in known}


@pytest.mark.parametrize("path", [*exported(), *precheck.CLASSES.values()])
def test_no_default_is_refused(path: str) -> None:
    """A module may call a choice of texts as `common.numbers` calls a number."""
    module, _, name = path.rpartition(".")
    texts = {p.name: p.default for p in signature(getattr(import_module(module), name)).parameters.values()}
    for option, text in texts.items():
        if isinstance(text, str):
            check_value(option, parameters(path)[option], text)


@pytest.mark.parametrize("path", [*exported(), *precheck.CLASSES.values()])
def test_nothing_is_refused_that_the_parser_takes(path: str) -> None:
    """Command lines and files are read differently: `off` may be a text, and 10:00:00:00 a number."""
    module, _, name = path.rpartition(".")
    real = OptionParser(main=True)
    real.add_class_arguments(getattr(import_module(module), name), "its", fail_untyped=False)
    for option, text in product(parameters(path), ("off", "10:00:00:00", "0x10", "1_0", "[0.5]", "2.0", "-1")):
        try:
            real.parse_args([f"--its.{option}={text}"])
        except ConfigError:
            continue
        check_value(option, parameters(path)[option], parse_yaml(text, option))


def test_the_sections_are_those_of_the_parser() -> None:
    known = {section: f"{kind.__module__}.{kind.__name__}" for section, kind in SECTIONS.items()}
    assert {section: path for section, path in precheck.CLASSES.items() if "." not in section} == known


@pytest.mark.parametrize(
    "option",
    [
        "--model.lrr=1",
        "--data.bach_size=3",
        "--sequence.nme=x",
        "--trainer.max_stepz=3",
        "--model.backbone.nme=x",
        "--model.adapter.rnak=4",
        "--model.adapter={class_path: OLoRA, init_args: {lambda_nrm: 1}}",
        "--boundary.init.init_args.strenght=0.5",
        "--boundary.init.operator={class_path: CAGrad, init_args: {d: 1}}",
        "--observers.matrix.a=1",
        "--model.lr=abc",
        "--model.adapter.rank=abc",
        "--model.schedule=liner",
        "--model.backbone.dtype=fp8",
        "--data.epochs=publishd",
        "--sequence.save_every=5 minuts",
        "--trainer.gradient_clip_val=x",
        "--trainer.max_time=1 hour",
        "--boundary.init.initializer={class_path: SLICE, init_args: {directions: x}}",
        "--boundary.init.scope=matrx",
        "--data.max_new_tokens=x",
    ],
)
def test_what_is_refused_early_is_refused_in_the_same_words_later(option: str) -> None:
    options = [*configs("smoke"), option]
    with pytest.raises(ConfigError) as early:
        precheck.check(options)
    with pytest.raises(ConfigError) as late:
        parse(*options)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize(
    "option",
    [
        "--model.lr=${oc.env:HOME}",
        "--model.adapter=my_package.FrozenA",
        "--model.adapter.help=SeqLoRA",
        "--boundary.init.initializer.directions=x",
        "--model.backbone.config.hidden_size=x",
        "--data.per_task.FOMC.epochs=x",
        "--sequence.save_every=5 minutes",
        "--data.epochs=published",
        "--data.epochs=1e3",
        "--sequence.wandb=off",
        "--trainer.max_time=10:00:00:00",
    ],
)
def test_what_only_an_import_shows_is_left_to_the_parser(option: str) -> None:
    precheck.check([*configs("smoke"), option])
