"""Pictures and files of results."""
