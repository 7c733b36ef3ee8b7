"""Whether an entry may stand, what it weighs, and the proof that an author broke the rules."""
