# OpenStack Swift with its middleware s3api: a proxy and one server each of accounts, containers and objects, one replica.
# Debian's packages. Sourced by scripts/servers. The three servers and memcached have the ports PORT + 1 to PORT + 4.
command -v swift-proxy-server >/dev/null && command -v memcached >/dev/null && command -v swift-object-server >/dev/null || {
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends swift-proxy swift-account swift-container swift-object memcached
} >&2
mkdir -p "$dir"/{etc,devices/d1,cache}
cat >"$dir/etc/swift.conf" <<CONF
[swift-hash]
swift_hash_path_suffix = tests
[swift-constraints]
max_header_size = 16384
[storage-policy:0]
name = one
default = yes
CONF
n=0
for kind in account container object; do
  n=$((n + 1))
  cat >"$dir/etc/$kind.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $((port + n))
devices = $dir/devices
mount_check = false
swift_dir = $dir/etc
user = $(id -un)
workers = 1
log_address = /nonexistent
recon_cache_path = $dir/cache
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
CONF
  (
    cd "$dir/etc"
    swift-ring-builder $kind.builder create 4 1 1
    swift-ring-builder $kind.builder add "r1z1-127.0.0.1:$((port + n))/d1" 1
    swift-ring-builder $kind.builder rebalance || [ $? = 1 ]
  ) >"$dir/ring-$kind.log" 2>&1
done
cat >"$dir/etc/proxy.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
swift_dir = $dir/etc
user = $(id -un)
workers = 2
log_address = /nonexistent
[pipeline:main]
pipeline = catch_errors cache bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = $secret .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
dns_compliant_bucket_names = true
max_bucket_listing = 1000
min_segment_size = 5242880
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$((port + 4))
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:copy]
use = egg:swift#copy
[filter:symlink]
use = egg:swift#symlink
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
CONF
run memcached memcached -u "$(id -un)" -l 127.0.0.1 -p $((port + 4))
for kind in account container object; do run $kind swift-$kind-server "$dir/etc/$kind.conf"; done
for n in 1 2 3; do answers $((port + n)); done
run proxy swift-proxy-server "$dir/etc/proxy.conf"
key=test:tester # tempauth names a user account:user, and s3api takes that as the access key
ready() { :; }
