"""Everything that needs PyTorch: networks, activations, training, export and publication."""
