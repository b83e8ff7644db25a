"""The ports: the interfaces that brokers and backends implement."""
