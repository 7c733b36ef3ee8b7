"""Who is told what, and what is asked of whom, until all hold the same."""
