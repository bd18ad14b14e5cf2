"""Images and measured depths of their pixels in published layouts."""
