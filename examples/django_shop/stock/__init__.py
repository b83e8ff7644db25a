"""What the shop sells: products, how many are left, and lists of prices."""
