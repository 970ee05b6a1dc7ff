"""The API that takes batches of expert solutions, and the verbs."""
