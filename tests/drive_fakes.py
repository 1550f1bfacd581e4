"""A driver of fake jobs as a process of its own: ROOT, then what runs where."""

import faulthandler
import os
import sys
from pathlib import Path

from fakes import Fake, attempts, compute, drive, small_grid, steps

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.cli.terminate import terminable
from sau_bench.benchmark.run.local import LocalPool


def main(arguments):
    what, root = sys.argv[1], Path(sys.argv[2])
    if what == "dask":
        from sau_bench.benchmark.run.dask import DaskPool

        pool = DaskPool(sys.argv[3])
    else:
        pool = LocalPool(["", ""])
    with terminable():
        try:
            if what == "grid":
                plan = steps(small_grid())
                for name in plan:
                    Store(root / "cache").forget_failure(name)
                outcomes, driver = drive(plan, root, pool, compute)
                assert not driver.left()
                assert attempts(root, "victim 0")
                return any(outcome.state in ("failed", "blocked") for outcome in outcomes)
            drive([Fake("hang 0"), Fake("hang 1")], root, pool)
        finally:
            pool.close()
    return 0


if __name__ == "__main__":
    assert "torch" not in sys.modules
    faulthandler.dump_traceback_later(40, exit=True)  # a driver that hangs says where
    cli.run = main
    sys.stdout.write(f"{os.getpid()}\n")
    sys.exit(cli.main(["run"]))
