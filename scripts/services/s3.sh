# shellcheck shell=bash
#
# A server that speaks S3's protocol and keeps objects as files: s3s-fs, compiled here.

server s3 s3 tests S3_URI S3_PORT=26690-26709

readonly S3_VERSION=0.14.1
readonly S3_BUCKET=caches
PASSWORDS+=(S3_PASSWORD)

s3_folder() { printf '%s/s3s-fs-%s\n' "$CACHE" "$S3_VERSION"; }

packages_s3() { :; }

install_s3() { cached "$(s3_folder)" make_s3; }

make_s3() { # FOLDER
  # The default profile would take twice as long to compile.
  cargo install s3s-fs --version "$S3_VERSION" --locked --features binary --debug --root "$1" --target-dir "$1/target" &&
    rm -rf "$1/target"
}

start_s3() {
  mkdir -p "$RUN/$1/data/$S3_BUCKET"
  launch "$1" "$(s3_folder)/bin/s3s-fs" --host 127.0.0.1 --port "$S3_PORT" --access-key rag --secret-key "$S3_PASSWORD" \
    "$RUN/$1/data"
}

ready_s3() { [[ $(curl --silent --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$S3_PORT/") == 403 ]]; }

address_s3() { echo "http://rag:$S3_PASSWORD@127.0.0.1:$S3_PORT/$S3_BUCKET"; }
