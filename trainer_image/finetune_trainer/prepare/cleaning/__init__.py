"""Which rows are fit to be learnt: named rules, each counted, each with a policy."""
