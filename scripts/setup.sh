# What scripts/demo, scripts/test and scripts/bench need, installed where it is missing. Sourced.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Images of containers set it: each of the many processes would compile every module anew.
unset PYTHONDONTWRITEBYTECODE

# need PACKAGE COMMAND...: have install_missing install PACKAGE unless every COMMAND is there.
need() {
  local package=$1 command
  shift
  for command in "$@"; do
    command -v "$command" >/dev/null || [ -e "$command" ] || missing="$missing $package"
  done
}

# locked COMMAND...: run it, and run it again while another apt holds a lock, for up to 5 minutes.
# DPkg::Lock::Timeout waits for dpkg's lock only, not for that of the lists.
locked() {
  local said tries=0
  said=$(mktemp)
  while ! LC_ALL=C "$@" 2>"$said"; do
    cat "$said" >&2
    tries=$((tries + 1))
    if [ "$tries" -gt 60 ] || ! grep -q "Could not get lock\|Unable to lock" "$said"; then
      rm -f "$said"
      return 1
    fi
    sleep 5
  done
  rm -f "$said"
}

install_missing() {
  [ -n "$missing" ] || return 0
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  echo "installing:$missing"
  locked $sudo apt-get update -q
  # shellcheck disable=SC2086
  locked $sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $missing
}

find_python() {
  for python in python3.11 python3.12 python3.13 python3.14 python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return 0
  done
  echo "Python 3.11 or later is needed: apt install python3" >&2
  exit 1
}

# venv EXTRA: the package, editable, with its EXTRA, in .venv; anew when setup.cfg changed. The mode
# "compat" is a path in a .pth file: the default, a finder, costs each of the many processes 10 to
# 25 ms of CPU.
venv() {
  find_python
  [ -x .venv/bin/python ] || "$python" -m venv .venv || {
    need python3-venv /nonexistent; install_missing; "$python" -m venv .venv; }
  if ! cmp -s setup.cfg ".venv/installed-$1"; then
    install .venv/bin/python --config-settings editable_mode=compat -e ".[$1]"
    cp setup.cfg ".venv/installed-$1"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}

# install PYTHON OPTION... WHAT: by uv, which takes a fifth of pip's time. pip's constraints hold for it, and so do
# the machine's certificates, as for pip; where pip is told of another index than PyPI, or uv cannot be had or does not
# find all, pip does it.
install() {
  local at=$1 pip said
  shift
  pip=$($at -m pip config list 2>/dev/null || true)
  if ! printf '%s' "$pip" | grep -qE "[.](index-url|no-index)=" && said=$(
    UV_CONSTRAINT=$(printf '%s' "$pip" | sed -n "s/.*[.]constraint='\(.*\)'/\1/p")
    UV_SYSTEM_CERTS=true
    export UV_CONSTRAINT UV_SYSTEM_CERTS
    { $at -m pip install -q --disable-pip-version-check uv && $at -m uv pip install -q --python $at "$@"; } 2>&1
  ); then
    return
  fi
  [ -z "${said:-}" ] || echo "pip installs, as uv could not: $said" >&2
  $at -m pip install -q --disable-pip-version-check "$@"
}

# oldest EXTRA: as venv, in .venv-oldest, with the oldest versions that setup.cfg admits of what it names.
oldest() {
  find_python
  local at=.venv-oldest/bin/python
  [ -x $at ] || "$python" -m venv .venv-oldest
  if ! cmp -s setup.cfg ".venv-oldest/installed-$1"; then
    install $at --resolution lowest-direct -e ".[$1]"
    cp setup.cfg ".venv-oldest/installed-$1"
  fi
  export PATH="$PWD/.venv-oldest/bin:$PATH"
}

check_fuse() {
  [ -c /dev/fuse ] || { echo "/dev/fuse is missing: modprobe fuse (in a container: --device /dev/fuse --cap-add SYS_ADMIN)" >&2; exit 1; }
}

missing=
