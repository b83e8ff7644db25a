"""Migrations: one for each version of the tables (`drivers/sql/schema.py: VERSION`)."""
