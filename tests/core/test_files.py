"""Files are written whole or not at all; JSON lines survive a kill but for the last."""

import errno
import json
import os

import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.core.files import append_lines, read_lines, read_text, replacing, write_whole
from tests.helpers.process import run_python


def test_a_file_is_made_with_its_folder_and_replaced(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_whole(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()
    write_whole(path, b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    write_whole(path, "old")

    def full_disk(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.txt"
    write_whole(path, "old")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_is_on_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    write_whole(tmp_path / "b.txt", "new")
    assert done == ["fsync", "replace"]


def test_a_checkpoint_has_the_same_bytes_from_every_process(tmp_path):
    import torch

    def saved(path, pid, monkeypatch):
        monkeypatch.setattr(os, "getpid", lambda: pid)
        with replacing(path) as temporary:
            torch.save({"a": 1}, temporary)
        return path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        assert saved(tmp_path / "x.pt", 1, patch) == saved(tmp_path / "x.pt", 22, patch)


def test_lines_are_appended_and_a_cut_last_line_is_dropped(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert list(read_lines(path)) == []
    append_lines(path, [{"a": 1}, {"a": 2}])
    with open(path, "ab") as file:
        file.write(b'{"a": 3')  # a kill in the middle of a line
    assert [(n, json.loads(line)) for n, line in read_lines(path)] == [(1, {"a": 1}), (2, {"a": 2})]
    append_lines(path, [{"a": 4}])
    assert [json.loads(line)["a"] for _, line in read_lines(path)] == [1, 2, 4]
    path.write_bytes(b'{"a"')  # the first line is the last
    append_lines(path, [{"a": 5}])
    assert path.read_bytes() == b'{"a": 5}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_users_in_any_unicode(tmp_path, encoding):
    (tmp_path / "a").write_bytes("größe\n".encode(encoding))
    assert read_text(tmp_path / "a") == "größe\n"


def test_what_is_not_text_is_one_message(tmp_path):
    (tmp_path / "a").write_bytes("größe".encode("latin-1"))
    with pytest.raises(MIError, match=r"a: cannot be read as UTF-8 or UTF-16 text"):
        read_text(tmp_path / "a")
    with pytest.raises(MIError, match="No such file"):
        read_text(tmp_path / "b")


def test_importing_it_imports_nothing_large():
    code = "import s3prl_mi.core.files, sys; print([m for m in ('numpy', 'torch', 'yaml') if m in sys.modules])"
    assert run_python(code).stdout == "[]\n"
