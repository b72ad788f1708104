"""One HTML file that shows, at a click, what a pixel attends to: without server or network.

The file holds the pictures, their predicted classes, and queries and keys of the attention as
integers. Its JavaScript (web/) computes the weights of any point from them.
"""

from nonlocal_jax.exporting.page.images import write
from nonlocal_jax.exporting.page.videos import write_videos

__all__ = ["write", "write_videos"]
