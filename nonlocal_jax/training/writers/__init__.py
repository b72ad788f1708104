"""Writers, a file each: programs other than this one that get the entries of a run's log.

A module of the table `writers` has `check()`, which raises a UserError if what it needs is not
installed, and `build(place) -> Writer`.
"""
