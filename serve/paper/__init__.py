"""`dail paper`: the paper's tables and figures as runs of the other verbs (commands.py says how)."""
