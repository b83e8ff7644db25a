"""Values and their encoding: messages, outcomes, options, arguments. Every other layer imports them."""
