"""The machine room: queue, store, evidence, resync. It knows keys and versions, never jobs."""
