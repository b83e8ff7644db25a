"""What is sent by HTTP: HTTP tasks, callbacks, signatures."""
