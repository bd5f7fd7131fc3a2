"""The FineTuneJob operator: spec → plan → objects → observed → status."""
