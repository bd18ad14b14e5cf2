"""Images inside larger files (tar, zip, Parquet, ArrayRecord); an index says where each lies."""
