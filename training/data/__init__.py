"""Where images come from, and how a training batch is varied."""
