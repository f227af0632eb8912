# Ceph: a monitor, an OSD in memory and a RADOS gateway. Debian's packages, and root. Sourced by scripts/servers.
# The monitor needs two ports beside the gateway's, PORT + 1 and PORT + 2.
command -v radosgw >/dev/null && command -v ceph-osd >/dev/null && command -v ceph-mon >/dev/null || {
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ceph-mon ceph-osd radosgw ceph-common
} >&2
conf=$dir/ceph.conf ring=$dir/keyring
mkdir -p "$dir"/{mon,osd,rgw,run,log}
cat >"$conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = [v2:127.0.0.1:$((port + 1))/0,v1:127.0.0.1:$((port + 2))/0]
public network = 127.0.0.0/8
keyring = $ring
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 4294967296
log file = $dir/log/\$name.log
admin socket = $dir/run/\$name.asok
run dir = $dir/run
[mon.a]
mon data = $dir/mon
[osd.0]
osd data = $dir/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = $dir/rgw
rgw thread pool size = 64
CONF
ceph() { command timeout 20 ceph -c "$conf" "$@"; }
# until_it CMD...: wait until it succeeds.
until_it() {
  for _ in $(seq 120); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done
  echo "in vain: $*" >&2
  return 1
}
one_is_up() { ceph osd stat | grep -q '1 up'; }
ceph-authtool "$ring" --create-keyring --gen-key -n mon. --cap mon 'allow *' >/dev/null
for who in client.admin client.rgw osd.0; do
  ceph-authtool "$ring" --gen-key -n "$who" --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
done
monmaptool --create --fsid "$(sed -n 's/^fsid = //p' "$conf")" --addv a "[v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]" "$dir/monmap" >/dev/null
ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap" --keyring "$ring" >"$dir/mkfs.log" 2>&1
run mon ceph-mon -c "$conf" -i a -f
until_it ceph -s
osd=$(cat /proc/sys/kernel/random/uuid)
ceph osd new "$osd" >/dev/null
ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" >>"$dir/mkfs.log" 2>&1
run osd ceph-osd -c "$conf" -i 0 -f
until_it one_is_up
admin() { timeout 60 radosgw-admin -c "$conf" "$@"; }
until_it admin user create --uid test --display-name test --access-key "$key" --secret-key "$secret" --max-buckets 100000
# A second storage class, in the same pool: tests keep what is stored with objects.
place=(placement add --placement-id default-placement --storage-class STANDARD_IA)
admin zonegroup "${place[@]}" --rgw-zonegroup default >"$dir/placement.log"
admin zone "${place[@]}" --rgw-zone default --data-pool default.rgw.buckets.data >>"$dir/placement.log"
run rgw radosgw -c "$conf" -n client.rgw -f
ready() { :; }
