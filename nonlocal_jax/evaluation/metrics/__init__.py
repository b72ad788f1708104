"""Metrics: the confusion matrix, and a file for each score.

A module of the table `metrics` has `TITLE`, the title of its column; `MEAN_TITLE`, the title of its
mean over classes, empty if the mean is not reported; and `build()`, which returns the function from
a confusion matrix to the score of each class, NaN if a class has none.
"""
