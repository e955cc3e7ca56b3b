"""Child processes that do not run the user's script again.

multiprocessing makes every child that is not a plain copy of its parent run the parent's main module, in case what the
child is to do is defined there. Nothing that cfvid gives to a child is. A script without `if __name__ == "__main__"`
would begin again in each of them, and a script that came from standard input is not there to be run.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

_PREFIX = "cfvid-"
"""The names of our own processes begin with this. Processes that the user's own program starts are left alone."""


def new_process(method: str, name: str, target: Callable[..., object], args: tuple[Any, ...], *, daemon: bool) -> Any:
    """A process that is not started yet; its target and arguments must be importable without the main module.

    Args:
        method: `spawn` or `forkserver`.
        name: what the process does.
        target: called in the child.
        args: of the call.
        daemon: whether the child ends with its parent, and may have no children.
    """
    context: Any = multiprocessing.get_context(method)
    process: BaseProcess = context.Process(target=target, args=args, name=f"{_PREFIX}{name}", daemon=daemon)
    return process


_told_to_child = multiprocessing.spawn.get_preparation_data


def _without_main(name: str) -> dict[str, Any]:
    """What multiprocessing tells a child before anything else; ours are not told of the main module."""
    told = dict(_told_to_child(name))
    if name.startswith(_PREFIX):
        told.pop("init_main_from_name", None)
        told.pop("init_main_from_path", None)
    return told


multiprocessing.spawn.get_preparation_data = _without_main
