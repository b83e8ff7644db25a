"""Mails to the administrators: when to send one, what is in it, and how it is sent."""
