"""Runs stages in processes that start in milliseconds and can be killed.

A server process imports everything once and forks for each job. It has computed nothing, so it has no threads and
its children start clean. A job may be told to kill itself (SIGKILL) at its n-th write, fsync or rename.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Zygote:
    """The server, seen from a test."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready"

    def start(self, config: Path, output: Path, stages: list[str], *, die_at_call: int | None = None) -> int:
        """Start the stages; returns the process id."""
        job = {"config": str(config), "output": str(output), "stages": stages, "die_at_call": die_at_call}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """The job's exit code; minus the signal's number when it was killed."""
        return os.waitstatus_to_exitcode(int(self._read()))

    def run(self, config: Path, output: Path, stages: list[str], *, die_at_call: int | None = None) -> int:
        """Run the stages to their end, whatever it is."""
        self.start(config, output, stages, die_at_call=die_at_call)
        return self.wait()

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _serve() -> None:
    import cfvid.cli
    import cfvid.pipeline  # noqa: F401

    # Stages print to stdout, which is the line to the test.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_run_job(json.loads(line)))
        print(pid, file=replies, flush=True)
        print(os.waitpid(pid, 0)[1], file=replies, flush=True)


def _run_job(job: dict[str, Any]) -> int:
    import logging

    import torch
    from support.tiny import configure

    from cfvid.errors import CfvidError
    from cfvid.pipeline import run_stages

    logging.getLogger("cfvid").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if job["die_at_call"] is not None:
        die_at_call(job["die_at_call"])
    try:
        config = configure(json.loads(Path(job["config"]).read_text()))
        run_stages(config, Path(job["output"]), stages=job["stages"])
    except CfvidError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        return 99
    return 0


def die_at_call(number: int) -> None:
    """SIGKILL this process at its n-th fsync or rename (before it) or write of a checkpoint file (after it)."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    import safetensors.torch
    import torch

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    torch.save = counted(torch.save)
    safetensors.torch.save_file = counted(safetensors.torch.save_file)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    _serve()
