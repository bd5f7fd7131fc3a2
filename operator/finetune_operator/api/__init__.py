"""The FineTuneJob API: types, conditions, failure classes, and the CRD made from them."""
