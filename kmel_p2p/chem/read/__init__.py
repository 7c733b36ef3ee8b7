"""Reading the files that people have, before anything is judged."""
