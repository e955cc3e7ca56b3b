"""Imported by the server process that forks the decoding children, and by nothing else.

When its parent is gone, the server ends by running off its end, and its children are killed with it. Taking down
an interpreter that holds torch takes seconds; the server has nothing to tidy up, so it leaves at once.
"""

from __future__ import annotations

import atexit
import os

# What is registered last is called first: this module is imported after all others.
atexit.register(os._exit, 0)
