"""What `scripts/bench` is made of: an S3 server, the file systems, the workloads and the table."""
