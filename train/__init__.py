"""Shards to adapters."""
