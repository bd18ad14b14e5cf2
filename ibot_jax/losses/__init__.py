"""The losses, a file each, and how they are summed over chunks of rows."""
