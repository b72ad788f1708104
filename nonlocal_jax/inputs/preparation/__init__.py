"""From the published downloads to prepared data sets; the builders are in `data/`."""
