"""run_on_cluster against a real Dask scheduler and workers on loopback, and what may happen to them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from musicldm.core import jobs
from musicldm.core.errors import DataError, MismatchError, MissingProgramError, MusicLDMError, NetworkError, UsageError
from musicldm.core.jobs import run_on_cluster
from tests.clusters import scheduler, workers
from tests.core.test_jobs import die_on_three, die_the_first_time, raise_stubborn, refuse_odd, sleep, square

pytest.importorskip("distributed")


def sleep_in(item: tuple[float, Path | None]) -> float:
    """Sleep, and write down in which process."""
    seconds, pid = item
    if pid:
        pid.write_text(str(os.getpid()))
    return sleep(seconds)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two workers of one thread each."""
    folder = tmp_path_factory.mktemp("dask")
    with scheduler(folder) as (address, _), workers(address, 2, folder):
        yield address


def test_every_item_comes_back_once(address: str) -> None:
    assert sorted(run_on_cluster(square, range(30), address)) == [(n, n * n) for n in range(30)]


def test_nothing_to_do(address: str) -> None:
    assert list(run_on_cluster(square, [], address)) == []


def test_an_exception_is_a_result_with_its_hint(address: str) -> None:
    outcomes = dict(run_on_cluster(refuse_odd, [1, 2], address))
    assert outcomes[2] == 2
    assert isinstance(outcomes[1], DataError)
    assert (outcomes[1].message, outcomes[1].hint) == ("1 is odd.", "Double it.")


def test_an_exception_that_cannot_travel_is_told(address: str) -> None:
    [(_, outcome)] = run_on_cluster(raise_stubborn, [0], address)
    assert isinstance(outcome, RuntimeError)
    assert str(outcome) == "Stubborn: no way"


def test_a_worker_killed_in_the_middle_costs_a_retry_only(address: str, tmp_path: Path) -> None:
    markers = [tmp_path / name for name in "abcdefgh"]
    for done in markers[1:]:
        done.touch()
    assert dict(run_on_cluster(die_the_first_time, markers, address)) == dict.fromkeys(markers, "done")


def test_an_item_that_kills_its_worker_costs_no_other(address: str) -> None:
    outcomes = dict(run_on_cluster(die_on_three, range(12), address))
    killer = outcomes.pop(3)
    assert outcomes == {n: n for n in range(12) if n != 3}
    assert isinstance(killer, MusicLDMError)
    assert str(killer) == "The process working on it died 2 times."


def test_an_item_past_the_time_limit_costs_no_other(address: str, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    items = [(0.1, None), (60, pid), (0.2, None), (0.3, None), (0.4, None)]
    outcomes = {seconds: outcome for (seconds, _), outcome in run_on_cluster(sleep_in, items, address, time_limit=1)}
    late = outcomes.pop(60)
    assert outcomes == {n: n for n in (0.1, 0.2, 0.3, 0.4)}
    assert isinstance(late, MusicLDMError)
    assert str(late) == "It took longer than 1 s."
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_has_not_begun_is_cancelled(address: str, tmp_path: Path) -> None:
    outcomes = run_on_cluster(die_on_three, range(4, 50), address)
    next(outcomes)
    outcomes.close()
    start = time.monotonic()
    assert list(run_on_cluster(square, [5], address)) == [(5, 25)]
    assert time.monotonic() - start < 5


def test_an_interrupt_is_quiet_and_quick(address: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from musicldm.core.jobs import run_on_cluster\n"
        "try:\n"
        f"    for _ in run_on_cluster(time.sleep, [0.1] + [1] * 20, {address!r}):\n"
        "        print('one', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "one\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "")
    assert time.monotonic() - start < 3


def test_a_worker_with_another_version_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "__version__", "0.0.1")
    with pytest.raises(MismatchError, match=r"A worker has musicldm .*, and this machine has 0\.0\.1\."):
        list(run_on_cluster(square, [1], address))


def test_a_worker_that_cannot_load_the_function_ends_the_run_not_itself(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def work(n):\n    return n\n")
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import work  # type: ignore[import-not-found]

    with pytest.raises(MismatchError, match="cannot do this work: No module named 'only_here'") as caught:
        list(run_on_cluster(work, range(10), address))
    assert "same musicldm" in caught.value.hint


def test_a_lost_scheduler_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with scheduler(tmp_path) as (address, process), workers(address, 1, tmp_path):
        outcomes = run_on_cluster(sleep, [0.1, *[20] * 5], address)
        assert next(outcomes) == (0.1, 0.1)
        process.kill()
        start = time.monotonic()
        with pytest.raises(NetworkError, match=re.escape(f"The scheduler at {address} has gone away.")):
            next(outcomes)
        assert time.monotonic() - start < 15  # and not until a task of 20 s ends
    assert capfd.readouterr() == ("", "")


def test_a_scheduler_without_workers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WITHOUT_WORKERS", 0.5)
    with scheduler(tmp_path) as (address, _):
        with pytest.raises(NetworkError, match=f"The scheduler at {address} has no workers.") as caught:
            list(run_on_cluster(square, [1], address))
        assert f"dask worker {address}" in caught.value.hint


def test_a_scheduler_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "_ANSWERING", 0.5)
    with pytest.raises(NetworkError, match=r"There is no Dask scheduler at tcp://127\.0\.0\.1:9\.") as caught:
        list(run_on_cluster(square, [1], "tcp://127.0.0.1:9"))
    assert "dask scheduler" in caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_port_that_does_not_speak_dask_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_ANSWERING", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NetworkError, match="There is no Dask scheduler at"):
            list(run_on_cluster(square, [1], address))


@pytest.mark.parametrize("address", ["", "host", "tcp://host", "tcp://host:door", "gopher://host:70"])
def test_nonsense_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="is not a valid address of a scheduler"):
        list(run_on_cluster(square, [1], address))


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingProgramError) as caught:
        list(run_on_cluster(square, [1], "tcp://127.0.0.1:8786"))
    assert "pip install 'musicldm[cluster]'" in caught.value.hint
