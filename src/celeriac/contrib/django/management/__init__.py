"""Commands of manage.py; Django looks for this package."""
