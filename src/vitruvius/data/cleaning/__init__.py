"""What is done to a document before it is kept: text out of markup, rules with published limits, masks."""
