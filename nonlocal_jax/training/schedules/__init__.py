"""How the learning rate changes: a file for each schedule."""
