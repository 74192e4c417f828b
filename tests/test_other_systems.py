"""What other systems lack is hidden: the package imports and works. Locks as Windows has them, by a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from musicldm.doctor import machine
from musicldm.media.audio import files

# Run in every process of these tests, before anything else.
WITHOUT_UNIX = """
import importlib.abc, os, signal, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
for module, names in ((os, ("sysconf", "sched_getaffinity")), (signal, ("pthread_sigmask",))):
    for name in names:
        delattr(module, name)
"""
EVERYTHING = """
import importlib, pkgutil, sys, warnings
import musicldm
warnings.simplefilter("ignore")
for module in pkgutil.walk_packages(musicldm.__path__, "musicldm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "fcntl" not in sys.modules and "resource" not in sys.modules
from musicldm.cli.app import app
app(["preprocess", "songs", "out", "--jobs", "2", "--quiet"], standalone_mode=False)
app(["encode", "out", "latents", "--codec", "piano", "--quiet"], standalone_mode=False)
app(["latents", "verify", "latents"], standalone_mode=False)
app(["doctor"], standalone_mode=False)
"""
LOCK = """
import fcntl, os, sys, types
from pathlib import Path
from musicldm.core import system_locks
from musicldm.core.durable import Lock

def locking(descriptor, mode, count):
    \"\"\"As Windows does it, by the record locks of Unix.\"\"\"
    first = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if mode else fcntl.LOCK_UN, count, first, os.SEEK_SET)
    except BlockingIOError as error:
        raise PermissionError(str(error)) from error

windows = types.SimpleNamespace(locking=locking, LK_NBLCK=1, LK_UNLCK=0)
system_locks._module = {"msvcrt": windows}.get
lock = Lock(Path(sys.argv[1]))
for line in sys.stdin:
    print(getattr(lock, line.strip())(), flush=True)
"""


def test_without_what_only_unix_has(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_UNIX)
    (tmp_path / "songs").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 0.1, (1, 16_000)).astype(np.float32)
        files.write(tmp_path / f"songs/{number}.wav", noise, 16_000)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", EVERYTHING]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 2
    assert "does not say how much is free" in done.stdout


def test_free_memory_without_proc(tmp_path: Path) -> None:
    found = machine._free_memory(tmp_path / "nothing")
    assert found is not None and found[0] == found[1] > 0


class Process:
    """A process that has the lock file open."""

    def __init__(self, file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOCK, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()

    def end(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end_it(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def does(self, what: str) -> str:
        self.begin(what)
        return self.end()


def test_locks_as_windows_has_them(tmp_path: Path) -> None:
    one, two, three, again = processes = [Process(tmp_path / "lock") for _ in range(4)]
    try:
        assert (one.does("share"), two.does("share")) == ("None", "None")
        assert three.does("take") == "False", "others share it"
        one.does("close")
        assert three.does("take") == "False"
        two.end_it()  # which releases it
        assert three.does("take") == "True"
        assert again.does("take") == "False"
        again.begin("share")  # waits until the other one shares too
        assert three.does("share") == "None" and again.end() == "None"
        again.end_it()
        assert three.does("take") == "True", "its own share is no hindrance"
    finally:
        for each in processes:
            each.end_it()
