"""The proxies that scripts/bench compares: one configuration each, as processes on one core."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EVENKEEL = ROOT / "target/release/evenkeel"
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
LISTEN_SECONDS = 5  # a proxy that does not listen by then does not run


def spawn(command, core, **options):
    """Starts a process on a core, if one is named."""
    pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    return subprocess.Popen([str(word) for word in command], preexec_fn=pin, **options)


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def process_ids(process):
    """A process and its children: nginx does its work in a child."""
    ids = [process.pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == process.pid:
                ids.append(int(stat.parent.name))
    return ids


def private_dirty(ids):
    """Memory that belongs to these processes alone, in bytes."""
    text = "".join(Path(f"/proc/{id}/smaps_rollup").read_text() for id in ids)
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"Private_Dirty:\s+(\d+) kB", text))


def free_port():
    """A port of 127.0.0.1 that is free for TCP; also for UDP, as far as anybody can tell."""
    while True:
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as other:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            with contextlib.suppress(OSError):
                other.bind(("0.0.0.0", port))
                return port


def haproxy(folder, port, backend, splice=()):
    options = "\n    ".join(f"option {name}" for name in splice)
    config = folder / "haproxy.cfg"
    config.write_text(f"""
global
    nbthread 1
    maxconn 7500
defaults
    mode tcp
    {options}
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen bench
    bind 127.0.0.1:{port} backlog 4096
    server one 127.0.0.1:{backend}
""")
    return ["haproxy", "-db", "-f", config]


def nginx(folder, port, backend):
    config = folder / "nginx.conf"
    module = f"load_module {NGINX_STREAM};" if NGINX_STREAM.exists() else ""
    config.write_text(f"""
{module}
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
events {{ worker_connections 40000; }}
stream {{
    access_log off;
    upstream one {{ server 127.0.0.1:{backend}; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_pass one;
        proxy_connect_timeout 10s;
        proxy_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{port} udp rcvbuf=4m;
        proxy_pass one;
        proxy_timeout 1h;
    }}
}}
""")
    return ["nginx", "-p", folder, "-e", folder / "error.log", "-c", config]


def evenkeel(folder, port, backend):
    config = folder / "evenkeel.toml"
    config.write_text(f"""
[global]
workers = 1

[[listener]]
name = "bench"
bind = "127.0.0.1:{port}"
protocol = "tcp"
pool = "one"

[pool.one]
balance = "round_robin"
health = {{ type = "none" }}

[[pool.one.backend]]
name = "one"
address = "127.0.0.1:{backend}"

[[listener]]
name = "datagrams"
bind = "127.0.0.1:{port}"
protocol = "udp"
pool = "datagrams"

[pool.datagrams]
balance = "round_robin"
health = {{ type = "none" }}
udp = {{ idle_timeout = "1h" }}

[[pool.datagrams.backend]]
name = "one"
address = "127.0.0.1:{backend}"
""")
    return [EVENKEEL, "run", "-c", config]


PROXIES = {
    "evenkeel": evenkeel,
    "haproxy": haproxy,
    "haproxy splice-auto": lambda *place: haproxy(*place, splice=["splice-auto"]),
    # What splicing can do for HAProxy: 2.6 was seen not to splice a single byte with splice-auto.
    "haproxy splice": lambda *place: haproxy(*place, splice=["splice-request", "splice-response"]),
    "nginx": nginx,
}

# HAProxy carries no UDP between clients and servers.
CARRY_DATAGRAMS = ["evenkeel", "nginx", "direct"]


class Proxy:
    """A running proxy in front of one port of the backend; `direct` is no proxy at all."""

    def __init__(self, name, backend, core, folder):
        self.name, self.process, self.ids = name, None, []
        self.port = backend
        if name == "direct":
            return
        self.port = free_port()
        self.folder = folder / f"{name.replace(' ', '-')}-{self.port}"
        self.folder.mkdir()
        command = PROXIES[name](self.folder, self.port, backend)
        if not shutil.which(str(command[0])):
            raise RuntimeError(f"{command[0]} is not installed")
        with open(self.folder / "output", "wb") as output:
            self.process = spawn(command, core, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            self.wait_until_listening()
        except BaseException:
            self.stop()
            raise
        self.ids = process_ids(self.process)

    def wait_until_listening(self):
        deadline = time.monotonic() + LISTEN_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        output = (self.folder / "output").read_text(errors="replace").strip()
        raise RuntimeError(f"does not listen: {output[-400:] or 'it said nothing'}")

    def stop(self):
        if self.process:
            stop(self.process)
