"""How a token chooses its experts."""
