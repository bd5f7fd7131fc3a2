"""A package, so that its tests share one operator: see conftest.py."""
