"""The trusted child: everything a key holder does with tensors, away from the event loop."""
