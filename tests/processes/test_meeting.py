"""How processes meet, and what they say when they do not."""

import re
import socket
import subprocess
import sys
import threading

import pytest

from trm_jax import cli
from trm_jax.errors import UserError
from trm_jax.processes import Place, ProcessesError, found_place, meeting
from trm_jax.processes.meeting import gather, reach


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", 0.3)


def at_once(*functions):
    """Runs each in a thread of its own; what they return, or raise."""
    found = [None] * len(functions)

    def keep(number, function):
        try:
            found[number] = function()
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=keep, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_processes_meet_whichever_comes_first_and_strangers_are_sent_away(port):
    def first():
        links = gather(port, 3)
        for link in links.values():
            link.send(port=17)
        return links

    turned_away = threading.Event()

    def stranger():
        with meeting._connect("localhost", port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = connection.recv(100)
        turned_away.set()
        return answer

    def second():
        turned_away.wait(20)  # behind the others it would find nobody
        return reach("localhost", port, 2, 3)

    links, *others, answer = at_once(first, second, lambda: reach("localhost", port, 1, 3), stranger)
    assert sorted(links) == [1, 2]
    assert links[2].name == f"process 2 ({socket.gethostname()})"
    assert [answer for _, answer in others] == [{"port": 17}] * 2
    for link in (*links.values(), *(link for link, _ in others)):
        link.close()
    assert answer == b"" or isinstance(answer, ConnectionResetError)


def test_who_does_not_come_is_named(port, impatient):
    first, second = at_once(lambda: gather(port, 4), lambda: reach("localhost", port, 2, 4))
    assert re.match(r"of 4 processes 1, 3 did not come to .* within 0 s", str(first))
    assert isinstance(second, SystemExit)  # process 0 tells it


def test_process_0_that_is_not_there(port, impatient):
    with pytest.raises(ProcessesError, match=f"process 0 does not answer at localhost:{port}"):
        reach("localhost", port, 1, 2)
    with pytest.raises(ProcessesError, match=r"does not answer at nowhere.invalid:9 .*known"):
        reach("nowhere.invalid", 9, 1, 2)


def test_something_else_that_answers(port):
    def other():
        with socket.create_server(("", port)) as server:
            server.accept()[0].close()

    _, error = at_once(other, lambda: reach("localhost", port, 1, 2))
    assert isinstance(error, ProcessesError)
    assert "has ended, or it is not process 0 that answers there" in str(error)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([(1, 4)], "process 0 was started as one of 3 processes, process 1 as one of 4"),
        ([(1, 3), (1, 3)], "two processes"),
    ],
)
def test_processes_that_do_not_belong_together(port, others, says):
    first, *rest = at_once(
        lambda: gather(port, 3), *(lambda place=place: reach("localhost", port, *place) for place in others)
    )
    assert isinstance(first, ProcessesError)
    assert says in str(first)
    assert all(isinstance(one, SystemExit) for one in rest)


def test_a_port_that_is_taken(port):
    with socket.create_server(("", port)), pytest.raises(ProcessesError, match=f"at port {port} .*in use"):
        gather(port, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(coordinator="node1:9911"), "go together"),
        (dict(num_processes=2, process_id=0), "go together"),
        (dict(coordinator="node1", num_processes=2, process_id=0), "no HOST:PORT"),
        (dict(coordinator="node1:0", num_processes=2, process_id=0), "no HOST:PORT"),
        (dict(coordinator="node1:9911", num_processes=2, process_id=2), "from 0 to 1"),
        (dict(distributed=True, process_id=2), "leave --coordinator"),
        (dict(distributed=True), "no variables of Slurm"),
    ],
)
def test_options_that_are_half_given_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        cli.ProcessOptions(**options).join()


def test_slurm_tells_the_place(monkeypatch):
    values = dict(JOB_ID="4097", STEP_NODELIST="node[07-09],other", NTASKS="6", PROCID="5", LOCALID="1")
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert found_place() == Place("node07", 61441, 6, 5, (1,))
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    assert found_place().devices is None


TALK = """
import os, sys, time
from trm_jax.processes import end_all, end_by_fault, first_says, join, part, Place
number = int(sys.argv[2])
join(Place("localhost", int(sys.argv[1]), 3, number))
heard = first_says(f"from {number}")
print(heard, file=sys.stderr)
exec(sys.argv[3 + number])
part()
"""


@pytest.mark.parametrize(
    ("acts", "statuses", "told"),
    [
        (["", "", ""], [0, 0, 0], [None] * 3),
        (["time.sleep(60)", "end_all('the disk is full', 2)", "time.sleep(60)"], [2, 2, 2], ["full", None, None]),
        (
            ["time.sleep(1); end_all('bad', 2)", "end_all('bad', 2)", "end_all('bad', 2)"],
            [2, 2, 2],
            ["bad", None, None],
        ),
        (
            ["time.sleep(60)", "end_by_fault(KeyError('x'))", "time.sleep(60)"],
            [1, 1, 1],
            ["KeyError, see above", "KeyError: 'x'", None],
        ),
    ],
    ids=["all well", "one has an error", "all have the same", "one has a fault"],
)
def test_all_end_and_the_reason_is_told_once(port, acts, statuses, told):
    processes = [
        subprocess.Popen([sys.executable, "-c", TALK, str(port), str(number), *acts], stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    try:
        said = [process.communicate(timeout=60)[1].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == statuses, said
    assert all("from 0" in lines for lines in said)
    assert [sum(bool(line.startswith("-c: ")) for line in lines) for lines in said] == [int(any(told)), 0, 0]
    for lines, expected in zip(said, told, strict=True):
        assert expected is None or expected in lines[-1]
