"""What an adapter is worth: pass@k and a report."""
