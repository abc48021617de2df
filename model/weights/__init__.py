"""Weights by name, the network they belong to, restoring, and the ledger."""
