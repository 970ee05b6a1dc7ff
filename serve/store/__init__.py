"""The store behind the API, by table."""
