"""The executable specification: pure code that never touches a socket, disk or clock."""
