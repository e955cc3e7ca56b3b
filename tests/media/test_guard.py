"""The guarded pool as its users see it when nothing goes wrong in the children."""

from __future__ import annotations

import itertools
import pickle
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.decoders import ATTEMPTS, array_of, no_array, of_size, stand_in, transposed

from cfvid.errors import DataError
from cfvid.media import guard
from cfvid.media.guard import MAX_PAYLOAD_BYTES, GuardedPool, Outcome


@pytest.fixture(params=[0, 1, 3])
def pool(request: pytest.FixtureRequest) -> Iterator[GuardedPool]:
    with GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=request.param, deadline_s=20) as pool:
        yield pool


def numbers(outcomes: list[Outcome]) -> list[int | None]:
    return [None if outcome.value is None else int(outcome.value[0]) for outcome in outcomes]


def test_outcomes_come_in_order_with_attempts_and_reasons(pool: GuardedPool) -> None:
    payloads = ["ok 0", "slow 1 0.05", "first:refuse 2", "refuse 3", "ok 4", *(f"ok {n}" for n in range(5, 40))]
    outcomes = list(pool.imap(iter(payloads), ahead=7))
    assert [outcome.payload for outcome in outcomes] == payloads
    assert numbers(outcomes) == [0, 1, 2, None, *range(4, 40)]
    assert outcomes[0].attempt == "first"
    assert outcomes[0].reasons == ()
    assert outcomes[2].attempt == "second"
    assert outcomes[2].reasons == ("first: cannot read 2",)
    assert outcomes[3].attempt is None
    assert outcomes[3].reasons == ("first: cannot read 3", "second: cannot read 3")


def test_nothing_in_nothing_out(pool: GuardedPool) -> None:
    assert list(pool.imap([])) == []
    assert numbers(list(pool.imap(["ok 1"]))) == [1]


def test_a_consumer_may_leave_early_and_come_back(pool: GuardedPool) -> None:
    for start in (100, 200, 300):
        endless = pool.imap(f"ok {n}" for n in itertools.count(start))
        assert numbers(list(itertools.islice(endless, 3))) == [start, start + 1, start + 2]
        endless.close()
    # Were there results of the rounds before, they would be taken for these.
    assert numbers(list(pool.imap(f"ok {n}" for n in range(10)))) == list(range(10))


def test_errors_of_the_payloads_come_after_the_outcomes_before_them(pool: GuardedPool) -> None:
    def payloads() -> Iterator[str]:
        yield from ("ok 1", "ok 2")
        raise KeyError("no such sample")

    outcomes = pool.imap(payloads())
    assert numbers([next(outcomes), next(outcomes)]) == [1, 2]
    with pytest.raises(KeyError, match="no such sample"):
        next(outcomes)
    assert numbers(list(pool.imap(["ok 3"]))) == [3]


def test_errors_of_the_consumer_leave_a_usable_pool(pool: GuardedPool) -> None:
    def consume() -> None:
        for _ in pool.imap(f"ok {n}" for n in range(50)):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert numbers(list(pool.imap(["ok 3"]))) == [3]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_no_more_tasks_are_begun_than_allowed(num_workers: int) -> None:
    drawn: list[int] = []

    def payloads() -> Iterator[str]:
        for number in range(30):
            drawn.append(number)
            yield f"ok {number}"

    with GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=num_workers, deadline_s=20) as pool:
        for taken, outcome in enumerate(pool.imap(payloads(), ahead=4), start=1):
            if taken in (1, 10, 20):
                time.sleep(0.1)  # for the other thread to draw what it may
                assert len(drawn) <= taken + 4
            assert outcome.value is not None
    assert len(drawn) == 30


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7, 5), (3, 16, 112, 112), (65_536,), (65_537,)])
@pytest.mark.parametrize("dtype", ["uint8", "float64", "bool", ">i2"])
def test_arrays_arrive_as_they_were(shape: tuple[int, ...], dtype: str) -> None:
    with pool_of(array_of) as pool:
        (outcome,) = pool.imap([(dtype, shape)])
        assert outcome.value is not None, outcome.reasons
        assert outcome.value.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(outcome.value, array_of((dtype, shape), "first"))
        assert outcome.value.flags.writeable


_POOLS: dict[object, GuardedPool] = {}


@pytest.fixture(scope="module", autouse=True)
def _close_pools() -> Iterator[None]:
    yield
    for pool in _POOLS.values():
        pool.close()


class pool_of:  # noqa: N801  (used as a function)
    """One pool per stand-in for the whole file; starting children takes most of a test's time."""

    def __init__(self, work: object) -> None:
        self._work = work

    def __enter__(self) -> GuardedPool:
        return _POOLS.setdefault(
            self._work,
            GuardedPool(self._work, attempts=("first",), num_workers=1, deadline_s=20),  # type: ignore[arg-type]
        )

    def __exit__(self, *_: object) -> None:
        pass


def test_arrays_out_of_order_in_memory() -> None:
    with pool_of(transposed) as pool:
        for size in (3, 300):
            (outcome,) = pool.imap([size])
            assert outcome.value is not None
            np.testing.assert_array_equal(outcome.value, transposed(size, "first"))


def test_objects_are_no_pixels() -> None:
    with pool_of(no_array) as pool:
        (outcome,) = pool.imap([1])
    assert outcome.value is None
    assert "array of objects" in outcome.reasons[0]


def test_a_payload_that_is_too_large_is_refused() -> None:
    with GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=1, deadline_s=20) as pool:
        with pytest.raises(ValueError, match="payload"):
            list(pool.imap(["ok 1", "ok " + "1" * MAX_PAYLOAD_BYTES]))
        assert numbers(list(pool.imap(["ok 3"]))) == [3]


def test_quick_tasks_with_large_payloads_and_results_do_not_block_each_other() -> None:
    """All that is sent ahead fits the pipe of a child which itself waits for a large result to be taken."""
    padding = "x" * (MAX_PAYLOAD_BYTES - 300)
    with pool_of(of_size) as pool:
        sizes = [1] * 20 + [3_000_000, 1, 1] * 8
        outcomes = list(pool.imap([(size, padding) for size in sizes]))
    assert [None if o.value is None else len(o.value) for o in outcomes] == sizes


def test_results_of_quick_tasks_are_taken_several_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    collect = guard._Round._collect
    monkeypatch.setattr(guard._Round, "_collect", lambda self: calls.append(collect(self)))
    with GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=1, deadline_s=20) as pool:
        list(pool.imap(["ok 0"]))
        calls.clear()
        assert numbers(list(pool.imap(f"slow {n} 0.002" for n in range(60)))) == list(range(60))
        assert len(calls) < 50
        calls.clear()
        # Slow ones are not kept waiting for others.
        for outcome in pool.imap(f"slow {n} 0.05" for n in range(4)):
            assert outcome.value is not None
        assert len(calls) >= 4


def test_one_imap_at_a_time() -> None:
    with GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=1, deadline_s=20) as pool:
        outer = pool.imap(f"ok {n}" for n in range(10))
        next(outer)
        with pytest.raises(RuntimeError, match="another imap"):
            next(pool.imap(["ok 1"]))
        assert numbers(list(outer)) == list(range(1, 10))


def test_closing_ends_an_open_imap() -> None:
    pool = GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=2, deadline_s=20)
    outcomes = pool.imap(f"ok {n}" for n in itertools.count())
    pids = {int(next(outcomes).value[1]) for _ in range(20)}  # type: ignore[index]
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(outcomes)
    with pytest.raises(RuntimeError, match="closed"):
        next(pool.imap(["ok 1"]))
    pool.close()
    assert gone(pids)


def gone(pids: set[int], *, seconds: float = 5.0) -> bool:
    """Whether these processes end, zombies included, within a time."""
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_nothing_is_left_behind() -> None:
    """No process, no thread, no file descriptor, whether children end by themselves or are killed."""

    def use_a_pool() -> set[int]:
        with GuardedPool(stand_in, attempts=ATTEMPTS, num_workers=2, deadline_s=20) as pool:
            outcomes = list(pool.imap([*(f"ok {n}" for n in range(20)), "crash", "ok 1"]))
            next(pool.imap(f"ok {n}" for n in itertools.count()))
        return {int(outcome.value[1]) for outcome in outcomes if outcome.value is not None}

    pids = use_a_pool()
    descriptors, threads = open_descriptors(), threading.active_count()
    for _ in range(3):
        pids |= use_a_pool()
    assert open_descriptors() == descriptors
    assert threading.active_count() == threads
    assert gone(pids)


def test_children_that_cannot_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here because the module of their work is not there for them."""
    ghost = types.ModuleType("ghost")
    exec("def work(payload, attempt): ...", ghost.__dict__)
    monkeypatch.setitem(sys.modules, "ghost", ghost)
    pool = GuardedPool(ghost.work, attempts=ATTEMPTS, num_workers=1, deadline_s=20)
    with pool, pytest.raises(DataError, match=r"did not start: exit code 1"):
        next(pool.imap(["ok 1"]))


def test_work_that_cannot_be_sent_is_an_error() -> None:
    pool = GuardedPool(lambda *_: np.zeros(1), attempts=ATTEMPTS, num_workers=1, deadline_s=20)
    with pool, pytest.raises((AttributeError, pickle.PicklingError)):
        next(pool.imap(["ok 1"]))
