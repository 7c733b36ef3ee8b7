"""What people and monitoring see of a daemon: log, status, metrics, egress record."""
