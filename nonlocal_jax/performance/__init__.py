"""What a config takes on a TPU slice, from the program that the TPU's compiler makes of it."""
