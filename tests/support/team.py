"""Runs jobs in several processes that know each other as under torchrun, but start in a moment.

As in `support.zygote`, a server imports everything once and forks. It sets what torchrun sets, and waits for all.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Team:
    """The server, seen from a test."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready"

    def start(self, job: str, *arguments: Any, size: int) -> list[int]:
        """Start a function of `support.team_jobs` in `size` processes; returns their ids, by rank."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        order = {"job": job, "arguments": [str(a) if isinstance(a, Path) else a for a in arguments]}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**order, "size": size, "port": port}) + "\n")
        self._process.stdin.flush()
        pids: list[int] = json.loads(self._read())
        return pids

    def wait(self) -> tuple[list[int], float]:
        """Exit codes by rank (minus the number of a signal that killed one), and seconds from the first to the last."""
        codes, seconds = json.loads(self._read())
        return codes, seconds

    def run(self, job: str, *arguments: Any, size: int) -> list[int]:
        """Run a job to its end, whatever it is."""
        self.start(job, *arguments, size=size)
        return self.wait()[0]

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _serve() -> None:
    from support import team_jobs

    import cfvid.pipeline  # noqa: F401

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stages print to stdout, which is the line to the test
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pids = [_fork(team_jobs, order, rank) for rank in range(order["size"])]
        print(json.dumps(pids), file=replies, flush=True)
        codes, ends = {}, []
        for _ in pids:
            pid, status = os.wait()
            codes[pid] = os.waitstatus_to_exitcode(status)
            ends.append(time.monotonic())
        print(json.dumps([[codes[pid] for pid in pids], ends[-1] - ends[0]]), file=replies, flush=True)


def _fork(jobs: Any, order: dict[str, Any], rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    size = str(order["size"])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(order["port"]), "OMP_NUM_THREADS": "1"}
    os._exit(jobs.run(order["job"], order["arguments"]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    _serve()
