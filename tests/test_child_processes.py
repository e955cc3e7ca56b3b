"""A program that calls cfvid need not protect its main module: no child process of ours runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny import write_pictures

TESTS = Path(__file__).resolve().parent
SCRIPT = """
import sys
from pathlib import Path
from support.tiny import tiny_config
from cfvid.pipeline import run_stages
print("the script begins", flush=True)
config = tiny_config(Path({data!r}), runtime__num_workers=2, pretrain__training__epochs=1)
run_stages(config, Path({output!r}), stages=["pretrain", "extract"])
print("the script ends", flush=True)
"""
GROUPS = """
from cfvid.child_processes import new_process
print("the script begins", flush=True)
process = new_process("spawn", "test", print, ("the child was here",), daemon=False)
process.start()
process.join()
assert process.exitcode == 0
print("the script ends", flush=True)
"""


def run_python(*arguments: str, folder: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input=text,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def arguments_for(how: str, folder: Path, text: str) -> tuple[list[str], str | None]:
    """The script as a file, from standard input, or as a module of a package."""
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "module.py").write_text(text)
    (folder / "script.py").write_text(text)
    return {
        "file": (["script.py"], None),
        "stdin": (["-"], text),
        "module": (["-m", "package.module"], None),
    }[how]


@pytest.mark.parametrize("how", ["file", "stdin", "module"])
def test_decoding_processes_do_not_run_the_script(tmp_path: Path, how: str) -> None:
    """A script without `if __name__ == "__main__"` ran again in every decoding process, and died."""
    data = write_pictures(tmp_path / "pictures", train=3, val=1)
    text = SCRIPT.format(data=str(data), output=str(tmp_path / "run"))
    arguments, typed = arguments_for(how, tmp_path, text)
    done = run_python(*arguments, folder=tmp_path, text=typed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the script begins") == done.stdout.count("the script ends") == 1
    assert (tmp_path / "run" / "extract" / "record.json").is_file()


@pytest.mark.parametrize("how", ["file", "stdin", "module"])
def test_nor_do_the_groups_of_an_experiment(tmp_path: Path, how: str) -> None:
    """They are started anew (spawn), as `--jobs 2` does."""
    arguments, typed = arguments_for(how, tmp_path, GROUPS)
    done = run_python(*arguments, folder=tmp_path, text=typed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["the script begins", "the child was here", "the script ends"]


def test_processes_of_the_program_itself_still_know_its_main_module(tmp_path: Path) -> None:
    """What a user's own `multiprocessing` does stays as it is."""
    text = """
import multiprocessing
import cfvid.media.guard

def work(queue):
    queue.put("from the main module")

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get(timeout=100))
    process.join()
"""
    (tmp_path / "script.py").write_text(text)
    done = run_python("script.py", folder=tmp_path)
    assert done.stdout == "from the main module\n", done.stderr
