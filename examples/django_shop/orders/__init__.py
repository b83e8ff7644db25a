"""Orders, from the basket to the invoice."""
