"""Plans for TPU slices, from the programs of the TPU's compiler, and measurements."""
