"""Downloads published data whose terms allow it, and lists the rest: `cl-lightning data [FOLDER]`.

Files under open licences are downloaded. Others are downloaded only if you accept their terms (`--accept
non-commercial`, `--accept unclear`); if not, each is listed with its address and destination. Interrupted downloads are
continued; finished ones are checked against the checksum of the published rows, if known, and never repeated.
Development splits are included for the data check; a missing one is not an error.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from cl_lightning.common.errors import DataError
from cl_lightning.common.terminal import say
from cl_lightning.data.audit.published import HOST, PublishedFile, Use, checksum, files
from cl_lightning.data.benchmarks import trace

#: Default folder of downloaded data.
CACHE = Path("~/.cache/cl_lightning/data")
CHUNK, TIMEOUT_S = 1 << 16, 30

BY_HAND = (
    "NI-Seq: clone github.com/allenai/natural-instructions (Apache-2.0, its texts under licences of their own) and put "
    "its folder tasks into {root}"
)


def download(url: str, path: Path) -> None:
    """Download `url` to `path`, continuing `path`.part if there is one.

    Raises:
        DataError: the server refuses, the connection breaks (the part is kept for the next time), or the file cannot be
            written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}: {error.filename})") from None
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            goes_on = answer.status == 206  # else the server sends the whole file again
            expected = (have if goes_on else 0) + int(answer.headers["Content-Length"] or 0)
            with part.open("ab" if goes_on else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send, the part is complete
            raise DataError(f"{url}: the server says {error.code} {error.reason}") from None
        expected = have
    except (OSError, HTTPException) as error:
        raise DataError(f"{url}: {' '.join(str(error).split()) or type(error).__name__}; run again to go on") from None
    if part.stat().st_size < expected:
        raise DataError(f"{url}: broke off at {part.stat().st_size} of {expected} bytes; run again to go on")
    os.replace(part, path)


def fetch(file: PublishedFile, root: Path, host: str) -> bool:
    """Download `file` to `root` unless it is there; return whether it was downloaded.

    Raises:
        DataError: the download fails, or the rows are not the published ones (the file is then deleted).
    """
    path = root / file.path
    fresh = not path.exists()
    if fresh:
        download(f"{host}/{file.place}", path)
    try:
        found = checksum(path)
        if file.checksum not in (None, found):
            raise DataError(
                f"{path}: its rows differ from the published ones (checksum {found} instead of {file.checksum})"
            )
    except DataError as error:
        if fresh:
            path.unlink()
        raise DataError(
            f"{error}; {'the download was discarded' if fresh else 'delete it to download it again'}"
        ) from None
    return fresh


def fetch_all(
    root: Path, accepted: Sequence[Use], host: str = HOST, subsets: Sequence[int] = (max(trace.SUBSETS),)
) -> list[str]:
    """Download all permitted files and report on each; return one line per needed file that failed.

    Raises:
        DataError: the folder `root` cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be made a folder ({error.strerror}); name another one") from None
    failed = []
    listed = files(subsets)
    wanted = [file for file in listed if file.use == "open" or file.use in accepted]
    for file in wanted:
        try:
            fresh = fetch(file, root, host)
        except DataError as error:
            if file.needed:
                failed.append(str(error))
            else:
                say(f"not downloaded, and no run needs it: {error}")
            continue
        checked = "checked" if file.checksum else "not checked: no checksum known"
        say(f"{'downloaded' if fresh else 'already there'}: {root / file.path} ({checked}; {file.terms})")
    left = [file for file in listed if file not in wanted and not (root / file.path).exists()]
    if left:
        say(f"not downloaded; read the terms, then add --accept {' '.join(dict.fromkeys(f.use for f in left))}:")
    for file in left:
        say(f"  {HOST}/{file.place} -> {root / file.path} ({file.terms})")
    say(BY_HAND.format(root=root))
    return failed
