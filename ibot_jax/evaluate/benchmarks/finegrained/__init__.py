"""The twelve sets of images on which DINOv2 (table 8) and before it SimCLR measure features."""
