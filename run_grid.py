"""Command line of the benchmark; see `python run_grid.py --help`."""

import sys

from sau_bench.benchmark.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
