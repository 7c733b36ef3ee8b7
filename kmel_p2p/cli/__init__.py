"""The command `kmel-peer`. Each command imports what it needs when it runs, so that `status` starts at once."""
