"""What `run_grid.py bench` runs: speed of the product, its ceiling, and a plain pipeline beside it.

Timed is the product's own path (`benchmark.train.fit`, the defenses, `benchmark.metrics.score`,
`attacks.base.poison`, the command line in fresh processes). `measurements.plain` is the other side.
Random images of the dataset's shape stand in for the dataset; no file is read.
"""
