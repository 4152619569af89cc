"""What is done to the images of a batch before the network sees them."""
