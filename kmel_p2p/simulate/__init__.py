"""Real peers on this machine: one process per site, followed to the end, and a report of what each learned."""
