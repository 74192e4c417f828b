"""A real Dask scheduler and its workers, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def dask(command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`dask scheduler` or `dask worker` on loopback, ended in the end with all that it started."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",  # every try takes a worker's start
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", command, "--host", "127.0.0.1", "--no-dashboard", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    file = folder / "scheduler.json"
    with dask("scheduler", "--port", "0", "--scheduler-file", str(file)) as process:
        for _ in range(300):
            if file.exists() and file.read_bytes().endswith(b"}"):
                break
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], process


def workers(address: str, count: int, folder: Path) -> ExitStack:
    stack = ExitStack()
    options = (address, "--nworkers", str(count), "--nthreads", "1", "--local-directory", str(folder))
    stack.enter_context(dask("worker", *options))
    return stack


def worker_processes(address: str) -> list[int]:
    """The processes in which the workers' work is done: children of the one that looks after them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])
            if "spawn_main" in (process / "cmdline").read_text() and address in (parent / "cmdline").read_text():
                found.append(int(process.name))
        except OSError:  # it has gone meanwhile
            continue
    return found
