"""The admin interface: JSON-RPC 2.0, one object a line, on a unix socket in the home."""
