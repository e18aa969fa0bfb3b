"""Files of a model that is a folder or comes from the hub, and why one cannot be had."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from cl_lightning.common.terminal import inform
from cl_lightning.model.moved_base import BaseMissing
from cl_lightning.model.names import EMBEDDED, RANDOM

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
#: How long the hub may take to answer before the cache is used alone.
SECONDS = 10.0


def model_file(source: str, file: str, revision: str | None = None) -> Path | None:
    """Return the path of a file of a model folder or hub model, from the cache if it is there; None if it has none.

    Raises:
        BaseMissing: there is no such folder or hub model, or the hub refuses it or cannot be reached.
    """
    if Path(source).is_dir():
        path = Path(source) / file
        return path if path.is_file() else None
    if source.startswith((".", "/", "~")):
        raise _missing(source, "a hub's names do not begin so")
    if _stored(source, "config.json", revision):
        _use_cache_if_unreachable(source, revision, constants.ENDPOINT)
    elif not _stored(source, file, revision):
        _say_what_is_waited_for(f"looking for {source} at")
    try:
        return Path(hf_hub_download(source, file, revision=revision))
    except LocalEntryNotFoundError:  # no network, or none wanted
        if _stored(source, "config.json", revision):
            return None
        why = "the cache has no such model, and "
        why += "HF_HUB_OFFLINE=1 looks nowhere else" if _offline() else f"{constants.ENDPOINT} cannot be reached"
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        why = f"it is gated: accept its terms at {constants.ENDPOINT}/{source}, then run hf auth login, or set HF_TOKEN"
    except RevisionNotFoundError:
        why = f"it has no revision {revision!r} (model.backbone.revision)"
    except RepositoryNotFoundError:
        why = f"{constants.ENDPOINT} has no such model for you; a private one needs hf auth login, or HF_TOKEN"
    except HFValidationError:
        why = "nor can it be the name of one"
    except HfHubHTTPError as error:
        why = f"{constants.ENDPOINT} answers {error.response.status_code}"
    raise _missing(source, why)


def _missing(source: str, why: str) -> BaseMissing:
    return BaseMissing(
        f"model.backbone.name: {source!r} is not a folder, a .gguf file, or a model that can be loaded from the hub or "
        f"its cache ({why}); embedded: {', '.join([*EMBEDDED, RANDOM])}"
    )


@contextmanager
def download_shown(source: str, revision: str | None = None) -> Iterator[None]:
    """Inside, a terminal gets bars while the weights of a hub model are downloaded; a line says so before."""
    if Path(source).is_dir() or _offline() or any(_stored(source, file, revision) for file in WEIGHTS):
        yield
        return
    _say_what_is_waited_for(f"downloading the weights of {source} from")
    hidden = are_progress_bars_disabled()
    enable_progress_bars()
    try:
        yield
    finally:
        if hidden:
            disable_progress_bars()


@cache
def _use_cache_if_unreachable(source: str, revision: str | None, endpoint: str) -> None:
    """Ask the hub once whether it is there, else look in the cache alone: the library tries each file for 23 s."""
    if _offline():
        return
    try:
        url = hf_hub_url(source, "config.json", revision=revision, endpoint=endpoint)
        get_hf_file_metadata(url, timeout=SECONDS)
    except HfHubHTTPError:  # it answers
        return
    except Exception as error:  # whatever the library's HTTP client raises; which client that is changes with versions
        inform(f"{endpoint} cannot be reached ({error}); using the cached files of {source}")
        constants.HF_HUB_OFFLINE = True


def _say_what_is_waited_for(what: str) -> None:
    if not _offline():
        inform(f"{what} {constants.ENDPOINT}; HF_HUB_OFFLINE=1 uses the cache alone")


def _offline() -> bool:
    return constants.is_offline_mode()


def _stored(source: str, file: str, revision: str | None) -> bool:
    try:
        return isinstance(try_to_load_from_cache(source, file, revision=revision), str)
    except HFValidationError:
        return False
