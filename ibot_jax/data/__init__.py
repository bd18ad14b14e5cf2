"""Images in, uint8 views and boolean masks out; the only package that imports tensorflow."""
