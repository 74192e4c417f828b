"""Streams that are closed or full, locales without letters, and a machine without memory: a sentence, or the work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{shlex.quote(sys.executable)} -m musicldm"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line as a person would type it, whose `musicldm` is this one."""
    whole = f'musicldm() {{ {COMMAND} "$@"; }}\n{line}'
    return subprocess.run(["bash", "-c", whole], env=os.environ | environment, capture_output=True, check=False)


def test_a_closed_stdout_is_said_before_any_work(tmp_path: Path) -> None:
    done = shell(f"musicldm preprocess {tmp_path}/nothing {tmp_path}/out >&-")
    assert done.returncode == 1 and done.stderr.startswith(b"Error: stdout is closed") and b"Hint:" in done.stderr


def test_a_full_stdout_is_one_sentence() -> None:
    done = shell("musicldm models >/dev/full")
    assert done.returncode == 1 and b"cannot be written to stdout: No space left" in done.stderr


def test_a_closed_stderr_and_stdin_harm_nothing(tmp_path: Path) -> None:
    done = shell(f"musicldm models 2>&- <&- && musicldm preprocess {tmp_path}/nothing {tmp_path}/out 2>&-")
    assert done.returncode == 1 and done.stdout.startswith(b"piano") and done.stderr == b""


@pytest.mark.parametrize("plain", ["0", "1"], ids=["no UTF-8 mode", "UTF-8 mode"])
def test_names_in_the_c_locale(tmp_path: Path, plain: str) -> None:
    """Python's own UTF-8 mode is off in some installations; a name's bytes come out as they went in all the same."""
    name = "Łódź 音.zarr".encode()
    utf8 = {"LC_ALL": "C", "PYTHONUTF8": plain, "PYTHONCOERCECLOCALE": "0"}
    model = os.fsencode(tmp_path) + b"/" + name + b"/one"
    os.makedirs(model)
    Path(os.fsdecode(model), "bundle.json").write_text("{}")
    Path(os.fsdecode(model), "card.md").write_text("---\nwhat: für Łódź\n---\n", encoding="utf-8")
    done = shell("musicldm models", MUSICLDM_MODELS=os.fsdecode(os.path.dirname(model)), **utf8)
    assert done.returncode == 0 and "für Łódź".encode() in done.stdout
    missing = shell("musicldm latents info $0/'Łódź'".replace("$0", shlex.quote(str(tmp_path))), **utf8)
    assert missing.returncode == 1 and b"Error:" in missing.stderr and b"bug in musicldm" not in missing.stderr


def test_too_little_memory_is_a_sentence() -> None:
    done = shell("ulimit -v 1500000; musicldm sample -m piano --seconds 5 --steps 2 -o -")
    assert done.returncode == 1 and b"There is not enough memory for this." in done.stderr
    assert b"bug in musicldm" not in done.stderr


def test_torch_and_torchaudio_that_do_not_fit(tmp_path: Path) -> None:
    """A verb, and `doctor`, name a command that puts another pair in their place."""
    (tmp_path / "torchaudio.py").write_text("raise OSError('libtorchaudio.so: undefined symbol')")
    for line in ("reconstruct a.wav b.wav --vae piano", "doctor"):
        done = shell(f"cd {tmp_path} && musicldm {line}", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        said = done.stdout + done.stderr
        assert done.returncode == 1 and b"undefined symbol" in said
        assert b"pip install --force-reinstall" in said and b"fault" not in said
