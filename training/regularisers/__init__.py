"""What keeps a network from learning its images by heart: active in training, nothing at all in evaluation."""
