"""Beat: sends what is scheduled. See `scheduler.py`."""
