"""Configurations of nginx, as the upstream and as a plain proxy, and of HAProxy as one."""

from pathlib import Path

HTTP = """daemon off;
worker_processes 1;
error_log {folder}/error.log crit;
pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_buffer_size 2m;
  client_max_body_size 64m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {content}
}}
"""
PROXY = """upstream bench {{ server 127.0.0.1:{upstream_port}; keepalive 2048; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 3600s;
    }}
  }}"""
UPSTREAM = """server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location / {{ return 200 '{{"object":"list","data":[]}}'; }}
    location /v1/chat/completions {{ return 200 '{answer}'; }}
  }}"""
HAPROXY = """global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  http-reuse always
  option http-no-delay
frontend bench
  bind 127.0.0.1:{port}
  default_backend upstream
backend upstream
  server upstream 127.0.0.1:{upstream_port}
"""


def nginx_argv(program: str, configuration: str, *, folder: Path) -> list[str]:
    """The command, once the configuration is written into the folder."""
    path = folder / "nginx.conf"
    path.write_text(configuration)
    return [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(path)]


def nginx_upstream(*, port: int, answer: bytes, folder: Path) -> str:
    """A fixed answer to chats; `answer` is a whole HTTP response, of which the body is taken."""
    body = answer.partition(b"\r\n\r\n")[2].decode()
    assert "'" not in body
    assert "$" not in body
    return HTTP.format(folder=folder, content=UPSTREAM.format(port=port, answer=body))


def nginx_proxy(*, port: int, upstream_port: int, folder: Path) -> str:
    return HTTP.format(folder=folder, content=PROXY.format(port=port, upstream_port=upstream_port))


def haproxy(*, port: int, upstream_port: int) -> str:
    return HAPROXY.format(port=port, upstream_port=upstream_port)
