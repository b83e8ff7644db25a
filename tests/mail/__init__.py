"""Mails to the administrators."""
