"""The example that proves the product: one FineTuneJob from nothing to a model that knows us."""
