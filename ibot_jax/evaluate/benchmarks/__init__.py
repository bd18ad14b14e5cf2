"""The files of public benchmarks."""
