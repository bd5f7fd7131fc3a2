# Generated from operator/finetune_operator/api/signatures/__init__.py: do not edit.
"""Known failures: what libraries print when they fail, what it means, and what to do about it."""
