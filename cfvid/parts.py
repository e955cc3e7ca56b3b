"""Many things in parts of about equal size: batches of samples, and blocks of the rows of long arrays.

Of an array in parts, what is made of each row is never there for all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

import numpy as np

MOST_VALUES = 2**24
"""The most values in one part: 64 MiB in single precision, and a few times that while the part is worked on."""


def rows_at_once(values_per_row: int) -> int:
    """How many rows have at most MOST_VALUES values together; at least one."""
    return max(1, MOST_VALUES // max(1, values_per_row))


def evenly(num: int, most: int, *, fewest: int = 1) -> list[int]:
    """Sizes of as few parts as `num` things need at `most` in each; they differ by one at most, the larger ones first.

    Where a part would have fewer than `fewest`, there are fewer parts, and these may have more than `most`.
    """
    count = max(1, min(-(-num // most), num // fewest))
    each, rest = divmod(num, count)
    return [each + (place < rest) for place in range(count)]


def parts(num_rows: int, values_per_row: int) -> list[slice]:
    """The rows in as few parts of about equal size as have at most MOST_VALUES values each.

    Equal ones, because BLAS rounds products of very few rows in another way than those of many: with parts of equal
    size, results do not depend on how long the array is.

    Args:
        num_rows: of the array.
        values_per_row: of the largest thing that is made of a row.

    Returns:
        Slices in order, which cover all rows; none for no rows.
    """
    sizes = evenly(num_rows, rows_at_once(values_per_row)) if num_rows else []
    return [slice(first, end) for first, end in pairwise(accumulate(sizes, initial=0))]


def blocks_of(size: int, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows in blocks of `size`, but for the last one, however many the given blocks have."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        rest = block
        while len(rest):
            waiting.append(rest[: size - sum(map(len, waiting))])
            rest = rest[len(waiting[-1]) :]
            if sum(map(len, waiting)) == size:
                yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                waiting = []
    if waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
