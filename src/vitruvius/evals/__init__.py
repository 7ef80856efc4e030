"""How fast, and with how much memory? Times of one model, taken so that they can be compared."""
