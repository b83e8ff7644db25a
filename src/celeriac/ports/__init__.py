"""The ports: what brokers and backends must be able to do."""
