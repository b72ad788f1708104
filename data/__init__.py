"""From the published downloads to prepared data sets: `python -m data.prepare NAME`."""
