"""What was trained, here or elsewhere → a measured bundle on the shelf."""
