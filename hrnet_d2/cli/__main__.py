"""``python -m hrnet_d2.cli COMMAND``."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
