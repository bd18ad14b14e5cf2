"""What `bench` measures: a file a measurement, and what they consist of."""
