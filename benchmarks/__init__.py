"""What `make bench` measures, and the reference that tests and benchmarks compare with."""
