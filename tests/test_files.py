"""Locks that end with their process, files that are old or new but never half, JSON that other people wrote."""

import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.support.command_line import ROOT
from trm_jax.errors import UserError
from trm_jax.files import BusyError, lock_beside, locked, read_lines, read_object, write_whole


def test_a_lock_keeps_others_out_until_its_process_dies(tmp_path, caplog):
    """Killed, the other process cannot tidy up; the lock must go with it all the same."""
    lock = tmp_path / "folder" / ".lock"
    script = (
        "import pathlib, sys, time\n"
        "from trm_jax.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), pathlib.Path('there')):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, lock], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="another process is writing to"), locked(lock, tmp_path / "run"):
            pass
        caplog.set_level("INFO")
        killer = threading.Timer(0.5, other.send_signal, [signal.SIGKILL])
        killer.start()
        with locked(lock, tmp_path / "run", wait=True):
            assert caplog.messages == [f"waiting for another process, which is writing to {tmp_path / 'run'}"]
        other.wait()
    with locked(lock, tmp_path / "run", wait=True):
        assert lock.exists()
    assert len(caplog.messages) == 1


def test_a_file_is_never_half_written(tmp_path):
    """A process that writes two contents in turn is killed at any moment: one of them is there, whole."""
    path, contents = tmp_path / "file", ["a" * 3_000_000, "b" * 3_000_000]
    write_whole(path, contents[0])
    script = (
        "import pathlib, sys\n"
        "from trm_jax.files import write_whole\n"
        "print('started', flush=True)\n"
        "while True:\n"
        "    for letter in 'ba': write_whole(pathlib.Path(sys.argv[1]), letter * 3_000_000)\n"
    )
    for number in range(5):
        with subprocess.Popen([sys.executable, "-c", script, path], cwd=ROOT, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(0.01 + 0.007 * number)
            writer.kill()
        assert path.read_text() in contents


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"\xff\xfe{}", "is not UTF-8"),
    ],
)
def test_what_is_no_json_object(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_object(path, UserError)
    path.write_bytes(b'{"a": 1}\n\n' + content)
    with pytest.raises(UserError, match=f"line 3 {message}"):
        list(read_lines(path, UserError))


def test_lines_end_where_json_lines_end(tmp_path):
    """A byte order mark at the start, and separators inside a text that Python's splitlines would split at."""
    path = tmp_path / "file.jsonl"
    path.write_text('\ufeff{"a": "x\u2028y\x85z"}\r\n{"a": 2}', encoding="utf-8", newline="")
    assert list(read_lines(path, UserError)) == [(1, {"a": "x\u2028y\x85z"}), (2, {"a": 2})]


def test_the_lock_of_the_current_folder_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "here/there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    locks = {lock_beside(pathlib.Path(name)).resolve() for name in (".", "../here", "", "../here/there/..")}
    assert locks == {tmp_path / ".here.lock"}
