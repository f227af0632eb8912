# rclone serve s3, over a directory. Sourced by scripts/servers.
mkdir -p "$dir/data"
run rclone "$here/../.venv/bin/rclone" serve s3 --addr "127.0.0.1:$port" --config /dev/null --dir-cache-time 1ms "$dir/data"
ready() { :; }
