"""``python -m xr_daisi``: the command line."""

import sys

from xr_daisi.cli import main

if __name__ == "__main__":
    sys.exit(main())
