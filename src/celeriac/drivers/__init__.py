"""What a broker and a backend on one server share: connections, schemas, scripts."""
