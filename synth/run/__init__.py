"""Units to shards: actors, the pool around them, workers, and runs on one machine."""
