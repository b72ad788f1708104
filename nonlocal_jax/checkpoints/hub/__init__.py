"""Hub folders: checkpoints by the conventions of the Hugging Face hub."""
