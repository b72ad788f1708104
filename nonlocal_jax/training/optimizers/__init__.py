"""What changes the parameters: a file for each optimiser."""
