# moto: in memory; it looks at no signature. Sourced by scripts/servers.
run moto "$here/../.venv/bin/python" "$here/../tests/support/moto_server.py" -H 127.0.0.1 -p "$port"
ready() { :; }
