"""What the entries of each author were worth: what has to be measured, and which entries are copies of others'."""
