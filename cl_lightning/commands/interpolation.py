"""Keep ${oc.env:NAME} as it was written: the environment's values must not reach stored or printed configurations."""

from typing import Any

from omegaconf.errors import OmegaConfBaseException

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.yaml_files import dump_yaml, parse_yaml

#: Begins a value of the environment.
ENVIRONMENT = "${oc.env:"


def as_written(text: str, written: Any) -> str:
    """Return the YAML of a resolved configuration with the interpolations of the one that was written.

    A reference to a value of the environment gives it away too, so all interpolations are put back.
    """
    return dump_yaml(put_back(parse_yaml(text, "configuration"), written))


def put_back(resolved: Any, written: Any) -> Any:
    """Return `resolved` with the interpolations of `written`, of the same structure."""
    if isinstance(written, str) and "${" in written:
        return written
    if isinstance(resolved, dict) and isinstance(written, dict):
        return {key: put_back(value, written.get(key)) for key, value in resolved.items()}
    if isinstance(resolved, list) and isinstance(written, list):
        return [put_back(*pair) for pair in zip(resolved, written, strict=False)]
    return resolved


def unresolved(error: OmegaConfBaseException) -> ConfigError:
    """Say in one line which option refers to what cannot be found or read."""
    why = str(error).partition("\n")[0]
    return ConfigError(f"{error.full_key}: its ${{..}} has no value ({why}); correct it, or write the value itself")
