"""Whether a trunk that comes as a package does what a federation needs of it."""
