import errno
import fcntl
import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from lowmag.errors import UserError
from lowmag.publish import publishing, write_json, write_text

WRITER = """
import sys, time
from lowmag.publish import publishing
with publishing(sys.argv[1]) as temporary:
    temporary.write_text("half of a long text")
    print(temporary, flush=True)
    time.sleep(60)
"""


def start_writer(path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    return writer, Path(writer.stdout.readline().strip())


def kill(writer):
    with writer:
        writer.send_signal(signal.SIGKILL)


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "out.csv"
    with publishing(path) as temporary:
        temporary.write_text("a")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "a"
    assert list(path.parent.iterdir()) == [path]


def test_error_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def interrupted():
        with publishing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "out.txt", "a")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o640


def test_json_is_sorted_and_never_holds_nan(tmp_path):
    write_json(tmp_path / "out.json", {"b": 1, "a": [2.5, None]})
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text) == {"a": [2.5, None], "b": 1}
    assert text.index('"a"') < text.index('"b"')
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", float("nan"))
    assert not (tmp_path / "nan.json").exists()


def test_leftover_of_a_killed_process_is_written_over(tmp_path):
    path = tmp_path / "out.h5"
    for _ in range(3):
        writer, left = start_writer(path)
        kill(writer)
        assert list(tmp_path.iterdir()) == [left]
    with publishing(path) as temporary:
        assert temporary == left
        assert temporary.stat().st_size == 0
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "new"


def test_leftover_that_is_another_output_is_not_written_over(tmp_path):
    """A process killed while it gave a file a second name (a hard link) leaves the file itself there."""
    path, other = tmp_path / "out.h5", tmp_path / "other.h5"
    with publishing(path) as temporary:
        pass
    other.write_text("another output")
    os.link(other, temporary)
    with publishing(path) as own:
        own.write_text("new")
        assert other.read_text() == "another output"
    assert sorted(tmp_path.iterdir()) == [other, path]
    assert (other.read_text(), path.read_text()) == ("another output", "new")


def test_file_of_a_process_at_work_is_left_alone(tmp_path):
    path = tmp_path / "out.h5"
    writer, theirs = start_writer(path)
    with publishing(path) as temporary:
        assert temporary != theirs
        temporary.write_text("mine")
    assert theirs.read_text() == "half of a long text"
    assert sorted(tmp_path.iterdir()) == sorted([path, theirs])
    kill(writer)
    write_text(path, "again")
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_in_turns_never_publish_half_a_file(tmp_path):
    """Each takes, locks and publishes the same two names again and again."""
    path = tmp_path / "out.txt"
    write_text(path, "x" * 4096)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_write_often, [str(path)] * 2, chunksize=1)
    assert list(tmp_path.iterdir()) == [path]


def _write_often(path):
    for number in range(100):
        write_text(path, f"{number % 10}" * 4096)
        found = Path(path).read_text()
        assert len(found) == 4096
        assert len(set(found)) == 1


def test_file_system_without_locks_is_served(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "out.txt"
    with publishing(path) as temporary:
        assert list(tmp_path.iterdir()) == [temporary]
        temporary.write_text("a")
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out\.txt cannot be written: .*name another and rerun"):
        write_text(tmp_path / "file" / "out.txt", "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root: it may write anywhere")
def test_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied; make its folder writable"):
        write_text(tmp_path / "out.txt", "a")


def test_full_disk_is_a_users_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.txt"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"out\.txt cannot be written: .*; make room there and rerun"):
            write_text(path, "a" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_of_the_block_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError):
        with publishing(tmp_path / "out.txt"):
            (tmp_path / "absent").read_text()
    assert not list(tmp_path.iterdir())
