"""The trainer process and what the daemon says to it."""
