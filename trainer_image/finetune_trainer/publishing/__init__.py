"""Pushing the published result to further places: registries and model hubs."""
