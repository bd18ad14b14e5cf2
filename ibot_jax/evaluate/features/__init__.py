"""Features of images: computed, kept on disk, spread over devices."""
