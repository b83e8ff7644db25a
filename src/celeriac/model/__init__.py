"""Values and their encoding: what messages, outcomes, options and arguments are."""
