"""Import of the published Caffe2 checkpoints of the video models, and export to Caffe2."""
