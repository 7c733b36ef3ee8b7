"""The daemon's side of its trainer process."""
