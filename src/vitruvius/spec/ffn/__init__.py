"""What acts on each position by itself."""
