"""The parts of `scripts/bench`: an S3 server, the file systems, the workloads and the table."""
