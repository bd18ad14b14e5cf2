"""Features of a folder of images, for those who want nothing else."""
