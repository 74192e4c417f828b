from __future__ import annotations

import fcntl
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musicldm.core.errors import DataError, MusicLDMError
from musicldm.core.jobs import run_all, run_each


def square(number: int) -> int:
    return number * number


def refuse_odd(number: int) -> int:
    if number % 2:
        raise DataError(f"{number} is odd.", "Double it.")
    return number


def die_on_three(number: int) -> int:
    if number == 3:
        os._exit(7)
    return number


def die_the_first_time(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


class Stubborn(Exception):
    """Goes into a pickle and never comes out."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def raise_stubborn(_: int) -> None:
    raise Stubborn("no way", "back")


def process_id(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def die_the_first_time_at(place: str, marker: Path) -> tuple[str, int]:
    time.sleep(0.1)
    die_the_first_time(marker)
    return place, os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def sleep_and_tell(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def alive_after_a_moment(group: int) -> bool:
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_item_comes_back_once(jobs: int) -> None:
    assert sorted(run_all(square, range(7), jobs)) == [(n, n * n) for n in range(7)]


def test_nothing_to_do() -> None:
    assert list(run_all(square, [], 2)) == []


def test_an_exception_is_a_result_with_its_hint() -> None:
    outcomes = dict(run_all(refuse_odd, [1, 2], 1))
    assert outcomes[2] == 2
    assert isinstance(outcomes[1], DataError)
    assert (outcomes[1].message, outcomes[1].hint) == ("1 is odd.", "Double it.")


def test_an_exception_that_cannot_travel_is_told() -> None:
    [(_, outcome)] = run_all(raise_stubborn, [0], 1)
    assert isinstance(outcome, RuntimeError)
    assert str(outcome) == "Stubborn: no way"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_item_that_kills_its_worker_costs_no_other(jobs: int) -> None:
    outcomes = dict(run_all(die_on_three, range(6), jobs))
    assert {n: outcomes[n] for n in range(6) if n != 3} == {n: n for n in range(6) if n != 3}
    assert isinstance(outcomes[3], MusicLDMError)
    assert str(outcomes[3]) == "The process working on it died 3 times (exit code 7)."


def test_a_chance_death_costs_a_retry_only(tmp_path: Path) -> None:
    markers = [tmp_path / name for name in "ab"]
    assert dict(run_all(die_the_first_time, markers, 2)) == dict.fromkeys(markers, "done")


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_item_past_the_time_limit_costs_no_other(jobs: int) -> None:
    start = time.monotonic()
    outcomes = dict(run_all(sleep, [0.1, 60, 0.2, 60.5, 0.3], jobs, time_limit=0.5))
    assert time.monotonic() - start < 20
    assert {n: outcomes[n] for n in (0.1, 0.2, 0.3)} == {n: n for n in (0.1, 0.2, 0.3)}
    for late in (outcomes[60], outcomes[60.5]):
        assert isinstance(late, MusicLDMError)
        assert str(late) == "It took longer than 0.5 s."


def test_each_item_has_the_time_limit_for_itself() -> None:
    outcomes = list(run_all(sleep_and_tell, [0.3] * 4, 1, time_limit=1))
    assert len({pid for _, pid in outcomes}) == 1


def test_neither_a_workers_start_nor_a_slow_caller_counts_against_an_item() -> None:
    # A start takes longer than this limit, and so does the caller before it looks at the second answer.
    for _, outcome in run_all(square, [1, 2], 1, time_limit=0.05):
        assert outcome in (1, 4)
        time.sleep(0.2)


@pytest.mark.parametrize("work", ["time.sleep(60)", "sum(range(10**10))"], ids=["asleep", "in C, no thread can run"])
def test_orphans_end_in_the_middle_of_their_item(tmp_path: Path, work: str) -> None:
    if "sum" in work and sys.platform != "linux":
        pytest.skip("only Linux ends it there")
    held = tmp_path / "held"  # a file that the worker has locked as long as it lives
    script = tmp_path / "script.py"
    script.write_text(
        "import fcntl, time\n"
        "from musicldm.core.jobs import run_all\n"
        "def work(path):\n"
        "    with open(path, 'w') as file:\n"
        "        fcntl.flock(file, fcntl.LOCK_EX)\n"
        "        print('working', flush=True)\n"
        f"        {work}\n"
        "if __name__ == '__main__':\n"
        f"    list(run_all(work, [{str(held)!r}], 1))\n"
    )
    with (
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent,
        held.open("w") as file,
    ):
        assert parent.stdout is not None and parent.stdout.readline() == "working\n"
        time.sleep(0.1)  # into the middle of it
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        parent.kill()
        start = time.monotonic()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert time.monotonic() - start < 1


def test_workers_are_gone_when_the_caller_leaves() -> None:
    outcomes = run_all(process_id, range(100), 2)
    pids = {next(outcomes)[1], next(outcomes)[1]}
    outcomes.close()
    for pid in pids:
        assert isinstance(pid, int)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert os.getpid() not in pids


def test_an_interrupt_ends_the_workers_at_once_and_quietly(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from musicldm.core.jobs import run_all\n"
        "def work(n):\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        list(run_all(work, range(4), 2))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n"
    )
    # A session of its own, whose whole group gets the signal, as from a terminal.
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(2):
        assert process.stdout is not None and process.stdout.readline() == "working\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == ""
    assert not alive_after_a_moment(process.pid)


def test_each_function_has_one_process_at_a_time_and_outlives_it(tmp_path: Path) -> None:
    places = [functools.partial(die_the_first_time_at, name) for name in ("left", "right")]
    markers = [tmp_path / str(number) for number in range(12)]
    for done in markers[1:]:
        done.touch()
    outcomes = [outcome for _, outcome in run_each(places, markers)]
    assert len(outcomes) == 12
    answers = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert len(answers) == 12
    processes = {name: {pid for place, pid in answers if place == name} for name in ("left", "right")}
    assert not processes["left"] & processes["right"]
    # A process that died on the first item has answered none, so it does not count.
    assert [len(ids) for ids in processes.values()] == [1, 1]
