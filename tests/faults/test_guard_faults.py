"""Fault matrix, rows 4 and 5: decoders that hang or crash the process, and what kills the processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.decoders import ATTEMPTS, stand_in

from cfvid.media.guard import GuardedPool, Outcome

DEADLINE_S = 1.0


@pytest.fixture
def pool() -> Iterator[GuardedPool]:
    with GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=2, deadline_s=DEADLINE_S, memory_gb=2.0) as pool:
        list(pool.imap(["ok 0"] * 8))  # so that times below do not count the start
        yield pool


def values(outcomes: list[Outcome]) -> list[int | None]:
    return [None if outcome.value is None else int(outcome.value[0]) for outcome in outcomes]


def pids_of(outcomes: list[Outcome]) -> set[int]:
    return {int(outcome.value[1]) for outcome in outcomes if outcome.value is not None}


def wait_until_gone(pids: set[int], *, seconds: float) -> set[int]:
    deadline = time.monotonic() + seconds
    left = set(pids)
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if psutil.pid_exists(pid)}
        time.sleep(0.01)
    return left


def test_a_hang_is_killed_at_the_deadline_and_the_others_go_on(pool: GuardedPool) -> None:
    before = pids_of(list(pool.imap(f"slow {n} 0.02" for n in range(12))))
    assert len(before) == 2
    started = time.monotonic()
    payloads = ["ok 0", "hang", *(f"slow {n} 0.02" for n in range(2, 30))]
    outcomes = list(pool.imap(payloads))
    seconds = time.monotonic() - started
    assert values(outcomes) == [0, None, *range(2, 30)]
    assert outcomes[1].reasons == tuple(f"{a}: killed after 1 s without a result" for a in ATTEMPTS)
    assert all(outcome.reasons == () for n, outcome in enumerate(outcomes) if n != 1)
    # Once per attempt, and not much later.
    assert 2 * DEADLINE_S <= seconds < 2 * DEADLINE_S + 2.0
    # The children that hung were replaced by new ones, which work.
    after = pids_of(list(pool.imap(f"slow {n} 0.02" for n in range(12))))
    assert len(after) == 2
    assert not after & wait_until_gone(before - after, seconds=2.0)


def test_a_hang_among_quick_tasks_costs_itself_alone(pool: GuardedPool) -> None:
    """Many are sent ahead, and results are left to gather: the deadline still is that of the one that hangs."""
    payloads = [*(f"slow {n} 0.002" for n in range(40)), "first:hang 40", *(f"slow {n} 0.002" for n in range(41, 60))]
    started = time.monotonic()
    outcomes = list(pool.imap(payloads))
    assert DEADLINE_S <= time.monotonic() - started < DEADLINE_S + 1.5
    assert values(outcomes) == list(range(60))
    assert [n for n, outcome in enumerate(outcomes) if outcome.reasons] == [40]
    assert outcomes[40].attempt == "second"


def test_others_are_not_held_up_by_a_hang(pool: GuardedPool) -> None:
    """While one child hangs, the other one does all the rest: its results are there when the hang is over."""
    started = time.monotonic()
    outcomes = pool.imap(["first:hang", *(f"slow {n} 0.01" for n in range(1, 41))])
    first = next(outcomes)
    assert first.attempt == "second"
    assert time.monotonic() - started >= DEADLINE_S
    started = time.monotonic()
    assert values(list(outcomes)) == list(range(1, 41))
    assert time.monotonic() - started < 0.4  # less than the work takes


@pytest.mark.parametrize("command", ["crash", "exit"])
def test_a_crash_costs_one_sample(pool: GuardedPool, command: str) -> None:
    outcomes = list(pool.imap(["ok 0", "ok 1", command, f"first:{command} 3", *(f"ok {n}" for n in range(4, 20))]))
    assert values(outcomes) == [0, 1, None, 3, *range(4, 20)]
    ending = "SIGSEGV" if command == "crash" else "exit code 3"
    assert outcomes[2].reasons == tuple(f"{a}: the decoding process crashed twice ({ending})" for a in ATTEMPTS)
    assert outcomes[3].attempt == "second"
    assert all(outcome.reasons == () for n, outcome in enumerate(outcomes) if n not in (2, 3))


def test_a_crash_that_does_not_repeat_costs_nothing(pool: GuardedPool, tmp_path: Path) -> None:
    """Such as the out-of-memory killer's, or one prepared by the sample before."""
    (outcome,) = pool.imap([f"crash_once {tmp_path / 'crashed'}"])
    assert (outcome.attempt, outcome.reasons) == ("first", ())
    assert (tmp_path / "crashed").exists()


def test_memory_is_limited(pool: GuardedPool) -> None:
    outcomes = list(pool.imap(["ok 0", "devour", "ok 2"]))
    assert values(outcomes) == [0, None, 2]
    assert "allocate" in outcomes[1].reasons[0]


def test_children_killed_while_idle_are_replaced(pool: GuardedPool) -> None:
    for _ in range(3):
        pids = pids_of(list(pool.imap(f"slow {n} 0.02" for n in range(8))))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert not wait_until_gone(pids, seconds=2.0)
        outcomes = list(pool.imap(f"ok {n}" for n in range(8)))
        assert values(outcomes) == list(range(8))
        assert all(outcome.reasons == () for outcome in outcomes)


def test_children_killed_at_work_cost_nothing(pool: GuardedPool) -> None:
    outcomes = []
    for outcome in pool.imap((f"slow {n} 0.01" for n in range(60)), ahead=10):
        outcomes.append(outcome)
        if len(outcomes) in (10, 30, 50):
            os.kill(int(outcome.value[1]), signal.SIGKILL)  # type: ignore[index]
    assert values(outcomes) == list(range(60))
    assert all(outcome.reasons == () for outcome in outcomes)


def test_a_storm_of_faults(pool: GuardedPool) -> None:
    """Any mixture: each task has its own outcome, in order."""
    rng = random.Random(0)
    kinds = rng.choices(["ok", "refuse", "first:refuse", "crash", "first:exit"], weights=[60, 10, 10, 3, 3], k=150)
    payloads = [f"{kind} {number}" for number, kind in enumerate(kinds)]
    outcomes = list(pool.imap(payloads, ahead=16))
    assert [outcome.payload for outcome in outcomes] == payloads
    for number, (kind, outcome) in enumerate(zip(kinds, outcomes, strict=True)):
        expected = None if kind in {"refuse", "crash"} else number
        assert values([outcome]) == [expected]
        assert len(outcome.reasons) == {"ok": 0, "refuse": 2, "crash": 2}.get(kind, 1)


@pytest.mark.parametrize("way", ["SIGKILL", "exit"])
def test_no_child_outlives_its_parent(way: str, tmp_path: Path) -> None:
    """Not even one that hangs and ignores SIGTERM; the idle one neither."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys
            from support.decoders import ATTEMPTS, stand_in
            from cfvid.media.guard import GuardedPool

            if __name__ == "__main__":
                pool = GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=2, deadline_s=600)
                idle = {int(o.value[1]) for o in pool.imap(f"slow {n} 0.05" for n in range(8))}
                print(*idle, flush=True)
                outcomes = pool.imap(["ok 1", f"hang {sys.argv[1]}", "ok 2"])
                next(outcomes)
                while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
                    pass
                print("hanging", flush=True)
                sys.stdin.read()
                os._exit(0)
            """
        )
    )
    tests = Path(__file__).resolve().parents[1]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "pid")],
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pids = {int(word) for word in parent.stdout.readline().split()}
    assert parent.stdout.readline() == "hanging\n"
    pids.add(int((tmp_path / "pid").read_text()))
    assert len(pids) >= 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    if way == "SIGKILL":
        parent.kill()
    else:
        parent.stdin.close()
    parent.wait(timeout=20)
    parent.stdout.close()
    # A second or two, most of it the server's own end; a hang would last for ever.
    assert not wait_until_gone(pids, seconds=20.0)
