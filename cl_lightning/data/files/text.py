"""Text of files: encodings, byte order marks, line ends, compression. Imports no torch."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cl_lightning.common.errors import ConfigError, DataError

#: Suffix after that of the format -> function that opens such a file.
COMPRESSIONS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: Byte order marks with the encodings that they announce. UTF-32's begins like UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: Bytes at the beginning of a file that are looked at.
HEAD = 4096


def format_suffix(path: Path) -> str:
    """Return the suffix that names the format, in lower case: ".csv" of "a.CSV.gz"."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return inner.suffix.lower()


def checked_encoding(name: str, option: str) -> str:
    """Return the name as it is. Raises ConfigError if no text encoding has it."""
    try:
        "".encode(name).decode(name)
    except (LookupError, UnicodeError):
        raise ConfigError(
            f"{option}: no text encoding is called {name!r}; examples: utf-8, utf-16, latin-1, cp1252, gb18030"
        ) from None
    return name


def lines(path: Path, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a file with their ends, which may be those of Unix, Windows or the classic Mac.

    Args:
        encoding: None: UTF-8, or what a byte order mark says.

    Raises:
        DataError: unreadable, damaged, or not text in this encoding; the message names the line.
    """
    with _opened(path) as binary:
        codec, skipped = _codec(binary, path, encoding)
        text = io.TextIOWrapper(binary, codec, newline="")
        try:
            yield from text
        except UnicodeError:
            raise _not_text(path, codec, skipped, known=encoding is not None or skipped > 0) from None


def whole(path: Path, encoding: str | None) -> str:
    """Return the text of a file, its line ends included. Raises DataError as `lines` does."""
    return "".join(lines(path, encoding))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that may be compressed. Raises DataError for what fails until it is closed."""
    compression = path.suffix.lower()
    try:
        with COMPRESSIONS.get(compression, open)(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged, or not compressed as {compression} ({error})") from None
    except OSError as error:
        if error.errno is None:  # bz2 reports damage so
            raise DataError(f"{path}: is damaged, or not compressed as {compression} ({error})") from None
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _codec(file: IO[bytes], path: Path, encoding: str | None) -> tuple[str, int]:
    """Return the codec for what follows the byte order mark, after which the file then stands, and the mark's length.

    A mark wins over a named encoding of the same family only: UTF-16 without a side is read as the mark says.
    """
    head = file.read(HEAD)
    mark, announced = next(((mark, name) for mark, name in MARKS if head.startswith(mark)), (b"", "utf-8"))
    named = codecs.lookup(encoding).name if encoding is not None else None
    if named is not None and not announced.startswith(named):
        mark, announced = b"", named
        if named in ("utf-16", "utf-32"):
            raise DataError(f"{path}: does not begin with a byte order mark; name {named}-le or {named}-be instead")
    if named is None and not mark and b"\0" in head:
        raise DataError(
            f"{path}: holds zero bytes, as UTF-16 without a byte order mark does; name the encoding, for example "
            "encoding: utf-16-le"
        )
    file.seek(len(mark))
    return announced, len(mark)


def _not_text(path: Path, codec: str, skipped: int, known: bool) -> DataError:
    """Find the first byte that is not text in this encoding."""
    decoder, line, read = codecs.getincrementaldecoder(codec)(), 1, skipped
    with _opened(path) as file:
        file.seek(skipped)
        while True:
            chunk = file.read(1 << 16)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(codec, errors="ignore")
                place = f"{path}, line {line + _ends(before)}"
                remedy = "" if known else "; if it is in another encoding, name it, for example encoding: latin-1"
                called = "UTF-8" if codec == "utf-8" else codec
                return DataError(f"{place}: not {called} text (byte {read - pending + error.start}){remedy}")
            except UnicodeError as error:  # of encodings that find no place
                return DataError(f"{path}, line {line}: not {codec} text ({error})")
            line, read = line + _ends(text), read + len(chunk)


def _ends(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")
