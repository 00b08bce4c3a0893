"""S-mode over local sockets: two host processes, a key holder, and a demonstration."""
