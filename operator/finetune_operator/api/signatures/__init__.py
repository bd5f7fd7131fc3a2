"""Known failures: what libraries print when they fail, what it means, and what to do about it."""
