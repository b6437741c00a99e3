#!/usr/bin/env python
"""`hrnet-d2 benchmark` from a checkout; `python tools/benchmark.py --help` lists the tasks."""

import sys

from hrnet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]], "python tools/benchmark.py"))
