"""Builders: plan → manifest, one file for each Kubernetes object. Pure; nothing here does I/O."""
