"""Tasks, a file each: what a run learns, and what that takes."""
