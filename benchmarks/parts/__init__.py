"""What several benchmarks share: command line and output, federations of daemons, tasks and data."""
