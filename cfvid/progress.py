"""Progress bars of long work: on a terminal, of the main process."""

from __future__ import annotations

from tqdm import tqdm

from cfvid import launch


def progress_bar(
    *, total: int, desc: str, unit: str, initial: int = 0, unit_scale: bool = False, shown: bool = True
) -> tqdm:
    """A bar with the expected end; nothing where standard error is no terminal, or another process shows one.

    Args:
        total: units of the whole work.
        desc: names it.
        unit: what is counted.
        initial: units that were done before.
        unit_scale: show thousands and millions.
        shown: False for work too short for a bar.
    """
    disable = None if shown and launch.rank() == 0 else True
    return tqdm(total=total, desc=desc, unit=unit, initial=initial, unit_scale=unit_scale, disable=disable, leave=False)
