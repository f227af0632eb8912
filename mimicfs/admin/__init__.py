"""What an administrator sees of a mount, and can tell it: status, metrics, logs, doctor."""
