"""Binds the name `callbacks` to this project's package.

The current folder or another installed project may also have a package called `callbacks`, and Python would import the
first one on its path. An installed wheel has ours inside `cl_lightning`, a clone beside it.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def callbacks_folder() -> Path:
    """Return the folder of this project's `callbacks` package."""
    package = Path(__file__).parents[1]
    inside = package / "callbacks"
    return inside if inside.is_dir() else package.parent / "callbacks"


def load_own_callbacks() -> None:
    """Import `callbacks` from `callbacks_folder()`, regardless of `sys.path`."""
    folder = callbacks_folder()
    known = sys.modules.get("callbacks")
    if known is not None and known.__file__ is not None and Path(known.__file__).parent == folder:
        return
    for name in [n for n in sys.modules if n.split(".")[0] == "callbacks"]:
        del sys.modules[name]
    spec = spec_from_file_location("callbacks", folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder}: no package")
    module = sys.modules["callbacks"] = module_from_spec(spec)
    spec.loader.exec_module(module)
