"""What may become what, by who asks. No SQL, no HTTP. `service.py` joins them."""
