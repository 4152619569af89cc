"""What goes on inside a network while it is trained, layer by layer."""
