"""How positions are told apart."""
