"""What is looked for in every update, and what happens when it is found."""
