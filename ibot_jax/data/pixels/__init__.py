"""From encoded images to arrays of pixels."""
