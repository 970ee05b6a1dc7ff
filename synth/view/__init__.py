"""Traces as people read them: what they are shown of a trace, the file that shows it, and what a terminal gets."""
