"""Benchmarks: what fastxs is measured by, and how.  `python -m bench.bars` runs every bar; README.md explains."""
