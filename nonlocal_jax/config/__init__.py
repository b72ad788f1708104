"""Configs: what can be set (schema), what a name stands for (tables), how one is read (files)."""
