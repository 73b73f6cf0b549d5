# shellcheck shell=bash
#
# A chroot of Debian unstable that builds for other systems; sourced by the scripts that do. It has a Rust compiler with the
# sources of its standard library, MinGW, and Wine and QEMU to run what was built. It is kept in
# ${XDG_CACHE_HOME:-~/.cache}/migrate-llm-cache/chroot; delete the folder to start afresh.
#
# Needs root, mmdebstrap, 8 GB of disk, and five minutes the first time.

readonly CHROOT="${XDG_CACHE_HOME:-$HOME/.cache}/migrate-llm-cache/chroot"

say() { printf '%s\n' "$*" >&2; }

# make_chroot: creates the chroot if it is missing.
make_chroot() {
  ((EUID == 0)) || { say "run it as root: it uses chroot" && exit 2; }
  command -v mmdebstrap >/dev/null || { say "install mmdebstrap first" && exit 2; }
  if [[ ! -f $CHROOT/complete ]]; then
    say "chroot"
    rm -rf "$CHROOT"
    mkdir -p "$(dirname "$CHROOT")"
    # A mirror may be a snapshot whose signature has expired.
    mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
      --include=ca-certificates,cargo,cmake,gcc-mingw-w64-x86-64,libc6-arm64-cross,libgcc-s1-arm64-cross,nasm,python3-venv,qemu-user,rust-src,wine64 \
      sid "$CHROOT" >&2
    touch "$CHROOT/complete"
  fi
  mkdir -p "$CHROOT/root/.cargo" "$HOME/.cargo"
  # What this machine trusts, for the registries.
  cp /etc/ssl/certs/ca-certificates.crt "$CHROOT/etc/ssl/certs/ca-certificates.crt"
  cp /etc/resolv.conf "$CHROOT/etc/resolv.conf"
}

# in_chroot FOLDER COMMAND…: runs in a folder of the chroot. The mounts end with the command, however it ends.
in_chroot() {
  # shellcheck disable=SC2016
  unshare --mount /bin/sh -euc '
    root=$1 folder=$2
    shift 2
    mount --bind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$HOME/.cargo" "$root/root/.cargo"
    exec chroot "$root" env PATH=/usr/bin:/bin HOME=/root CARGO_TARGET_DIR=/target /bin/sh -c '\''cd "$0" && exec "$@"'\'' "$folder" "$@"
  ' in_chroot "$CHROOT" "$@"
}

# place_sample: the sample job in /sample of the chroot.
place_sample() {
  rm -rf "$CHROOT/sample"
  mkdir "$CHROOT/sample"
  git archive HEAD migrate.example.yaml tests/fixtures/sample | tar -x -C "$CHROOT/sample"
}
