"""Requests to traces: what is drawn, by whom, and in which order."""
