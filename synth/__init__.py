"""Reasoning traces from expert solutions: rooms from core (lowest) to run, and the verbs of synthesis."""
