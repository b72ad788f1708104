"""The networks: layers, backbone, non-local block, heads, segmentor, and their builder."""
