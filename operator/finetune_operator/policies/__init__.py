"""One policy, one file: pure predicates from facts to verdicts. No I/O, no clock, no client."""
