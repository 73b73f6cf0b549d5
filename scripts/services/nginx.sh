# shellcheck shell=bash
#
# nginx in front of OpenSearch: one port with TLS and a login; another without a login, with OpenSearch only below a path.

server nginx nginx both "OPENSEARCH_TLS_URI OPENSEARCH_PATH_URI" NGINX_PORT=26890-26909 NGINX_PATH_PORT=26670-26689
in_front_of opensearch nginx
PASSWORDS+=(NGINX_PASSWORD)

packages_nginx() { has nginx || echo nginx; }

install_nginx() { nginx -v 2>/dev/null || die "nginx does not run"; }

start_nginx() {
  local home="$RUN/$1"
  mkdir -p "$home/tmp"
  (
    umask 077
    printf 'rag:%s\n' "$(openssl passwd -apr1 -stdin <<<"$NGINX_PASSWORD")" >"$home/users"
  )
  cat >"$home/nginx.conf" <<-EOF
	$(if ((EUID == 0)); then echo "user root;"; fi)
	worker_processes 1;
	daemon off;
	pid "$home/nginx.pid";
	error_log stderr warn;
	events { worker_connections 512; }
	http {
	  access_log off;
	  client_body_temp_path "$home/tmp/body";
	  proxy_temp_path "$home/tmp/proxy";
	  fastcgi_temp_path "$home/tmp/fastcgi";
	  uwsgi_temp_path "$home/tmp/uwsgi";
	  scgi_temp_path "$home/tmp/scgi";
	  client_max_body_size 100m;
	  proxy_http_version 1.1;
	  proxy_set_header Connection "";
	  proxy_set_header Authorization "";
	  proxy_read_timeout 300s;
	  # A body is passed on as it comes: written to a disk first, it would take longer than its encryption.
	  proxy_request_buffering off;
	  proxy_buffering off;
	  server {
	    listen 127.0.0.1:$NGINX_PORT ssl;
	    ssl_certificate "$RUN/tls/server.pem";
	    ssl_certificate_key "$RUN/tls/server.key";
	    auth_basic "OpenSearch";
	    auth_basic_user_file "$home/users";
	    location / { proxy_pass http://127.0.0.1:$OPENSEARCH_PORT; }
	  }
	  server {
	    listen 127.0.0.1:$NGINX_PATH_PORT;
	    location /opensearch/ { proxy_pass http://127.0.0.1:$OPENSEARCH_PORT/; }
	    location / { return 404; }
	  }
	}
	EOF
  launch "$1" "$(command -v nginx)" -e stderr -c "$home/nginx.conf"
}

# Checks only nginx itself: after the login, it answers 502 while OpenSearch is starting.
ready_nginx() {
  local code
  code=$(curl -sS --max-time 10 -o /dev/null -w '%{http_code}' --cacert "$RUN/tls/ca.pem" \
    --config <(printf 'user = "rag:%s"\n' "$NGINX_PASSWORD") "https://127.0.0.1:$NGINX_PORT/")
  [[ $code == 200 || $code == 502 ]]
}

address_nginx() {
  case $2 in
    OPENSEARCH_TLS_URI) echo "https://rag:$NGINX_PASSWORD@127.0.0.1:$NGINX_PORT" ;;
    OPENSEARCH_PATH_URI) echo "http://127.0.0.1:$NGINX_PATH_PORT/opensearch" ;;
  esac
}
