"""All measurements of a machine by one call, and a page of what they found."""
