# shellcheck shell=bash
#
# Builds the image of scripts/examples/Dockerfile without a registry; sourced after tools.sh by the scripts that need it.

# use_image_store FOLDER: sets STORE, the options for podman and buildah: a separate image store, with the driver that needs
# no kernel support.
use_image_store() {
  need buildah=buildah podman=podman runc=runc mmdebstrap=mmdebstrap
  STORE=(--root "$1/store" --runroot "$1/run" --storage-driver vfs)
}

# import_base_image FOLDER: a base image made from Debian packages, with the name in the Dockerfile.
import_base_image() {
  local base
  base=$(awk '/^FROM/ { name = $2 } END { print name }' scripts/examples/Dockerfile)
  mmdebstrap --quiet --mode=root --variant=extract --include=base-files,netbase,tzdata,libc6,libgcc-s1,ca-certificates \
    bookworm "$1/base.tar"
  podman "${STORE[@]}" import --quiet "$1/base.tar" "$base" >/dev/null
}

# build_context FOLDER NAME: the image NAME of the folder's Dockerfile.
build_context() { buildah "${STORE[@]}" bud --quiet --isolation chroot --pull-never -t "$2" "$1" >/dev/null; }

# build_image FOLDER PROGRAM NAME: the image NAME of the built PROGRAM.
build_image() {
  mkdir "$1/context"
  cp "$2" "$1/context/migrate-llm-cache"
  # The first stage would compile; here it gets the built program.
  awk '/^FROM .* AS build$/ { print "FROM scratch AS build\nCOPY migrate-llm-cache /build/target/release/migrate-llm-cache"; skip = 1; next }
       /^(FROM|#)/ { skip = 0 } !skip' scripts/examples/Dockerfile >"$1/context/Dockerfile"
  build_context "$1/context" "$3"
}
