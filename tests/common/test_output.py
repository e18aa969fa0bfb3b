"""Output files of commands: written atomically, links and permissions kept, pipes written to directly."""

import os
import stat
from pathlib import Path

import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.files import write_output


def test_a_file_keeps_its_permissions_and_no_other_file_is_left(tmp_path: Path) -> None:
    for mode in (0o600, 0o664, 0o751):
        file = tmp_path / "table.md"
        file.write_bytes(b"old")
        file.chmod(mode)
        write_output(file, b"new")
        assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"new", mode)
    assert os.listdir(tmp_path) == ["table.md"]


@pytest.mark.parametrize("there", [True, False])
def test_links_are_followed(tmp_path: Path, there: bool) -> None:
    file, link = tmp_path / "data" / "table.md", tmp_path / "second"
    if there:
        file.parent.mkdir()
        file.write_bytes(b"old")
    (tmp_path / "first").symlink_to("data/table.md")
    link.symlink_to(tmp_path / "first")
    write_output(link, b"new")
    assert link.is_symlink() and (tmp_path / "first").is_symlink()
    assert file.read_bytes() == b"new" and not file.is_symlink()
    assert os.listdir(file.parent) == ["table.md"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_to(tmp_path: Path, linked: bool) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    out.symlink_to(pipe)
    # Open at both ends, so that nothing waits for a reader.
    reading = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    write_output(out if linked else pipe, b"new")
    assert os.read(reading, 99) == b"new"
    os.close(reading)
    assert stat.S_ISFIFO(pipe.lstat().st_mode) and out.is_symlink()


def test_a_file_descriptor_is_written_to(tmp_path: Path) -> None:
    """As with /dev/stdout, the target may have no name."""
    reading, writing = os.pipe()
    write_output(Path(f"/proc/self/fd/{writing}"), b"new")
    assert os.read(reading, 99) == b"new"
    with open(tmp_path / "gone", "w+b") as file:
        (tmp_path / "gone").unlink()
        write_output(Path(f"/proc/self/fd/{file.fileno()}"), b"new")
        assert file.read() == b"new"
    assert os.listdir(tmp_path) == []
    for descriptor in (reading, writing):
        os.close(descriptor)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "{tmp}", "{tmp}/folder", "{tmp}/link"])
def test_a_folder_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(ConfigError, match=r"cannot be written \(Is a directory\); name another file$"):
        write_output(Path(name.format(tmp=tmp_path)), b"new")
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"] and os.listdir(tmp_path / "folder") == []


def test_circular_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="Too many levels of symbolic links"):
        write_output(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()
