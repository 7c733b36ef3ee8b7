"""The page of a running peer: where it stands, live, on this machine alone."""
