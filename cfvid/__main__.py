"""`python -m cfvid`."""

import sys

from cfvid.cli import main

if __name__ == "__main__":
    sys.exit(main())
