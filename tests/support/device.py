"""What the tests run on: simulated CPU devices, or with NONLOCAL_JAX_TEST_DEVICE=gpu a GPU."""

import os

ON_GPU = os.environ.get("NONLOCAL_JAX_TEST_DEVICE") == "gpu"
# A GPU adds up in other orders, and by algorithms that round more (Winograd's among cuDNN's).
ROUNDING = 5 if ON_GPU else 1
# What --config.precision=highest makes of a config's `model` section.
EXACT = {"dtype": "float32"} if ON_GPU else {}
