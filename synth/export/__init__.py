"""Traces as other trainers read them, with a card each, and the way to a model hub."""
