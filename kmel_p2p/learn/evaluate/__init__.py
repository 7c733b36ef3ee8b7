"""Was it worth it? Models of one site compared on its own held-out compounds."""
