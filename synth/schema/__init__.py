"""What crosses rooms and programs: items, units, shards, manifests."""
