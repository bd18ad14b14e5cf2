"""Images inside larger files: tar, zip, Parquet; an index says where each lies."""
