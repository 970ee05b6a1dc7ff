"""What knows nothing of traces: errors, settings, files, HTTP, the console, the machine."""
