"""SQLite, as the broker and the backend share it: `database`, `schema`, `watch`, `outcomes`."""
