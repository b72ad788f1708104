"""Testing of video networks: views, probabilities, top-1 and top-5."""
