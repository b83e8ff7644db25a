"""Several signatures as one: groups, and maps over iterables."""
