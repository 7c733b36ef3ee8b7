"""The control socket: the operator's commands and the daemon's answers."""
