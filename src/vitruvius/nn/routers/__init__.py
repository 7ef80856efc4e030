"""How tokens choose experts."""
