#!/usr/bin/env python
"""`hrnet-d2 benchmark` from a checkout; `python tools/benchmark.py --help` lists the tasks."""

import sys

from hrnet_d2.cli import benchmark
from hrnet_d2.cli.errors import run

if __name__ == "__main__":
    sys.exit(run(benchmark.main, sys.argv[1:], "benchmark.py"))
