"""Every figure of docs/benchmarks.md: one script each, run as `python -m benchmarks.NAME`."""
