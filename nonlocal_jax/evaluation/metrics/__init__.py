"""How good predictions are: a confusion matrix and the scores it gives, a file for each score.

A module of the table `metrics` has `TITLE`, of its column; `MEAN_TITLE`, of the mean over classes,
empty where none is told; and `build()`, which returns the function from a confusion matrix to the
score of every class, NaN where a class has none.
"""
