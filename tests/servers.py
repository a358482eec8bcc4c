# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Servers that tests start on loopback: Redis, and SeaweedFS, which speaks S3."""
import json
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

REDIS = os.environ.get("CAKE_TEST_REDIS") or shutil.which("redis-server") or ""
WEED = os.environ.get("CAKE_TEST_WEED") or ""
NO_REDIS = "[no Redis] skipped: no redis-server (bash tests/run.sh installs it; CAKE_TEST_REDIS=FILE names another one)"
NO_WEED = "[no SeaweedFS] skipped: CAKE_TEST_WEED names no program (bash tests/run.sh fetches it)"
ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def has_redis():
    return os.access(REDIS, os.X_OK)


def has_weed():
    return os.access(WEED, os.X_OK)


def free_ports(count):
    """Each with one 10,000 above it, which some servers take, too."""
    ports = []
    while len(ports) < count:
        port = random.randint(12000, 22000)
        try:
            for each in (port, port + 10000):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", each))
        except OSError:
            continue
        ports.append(port)
    return ports


def start_redis(folder, password):
    """A process that answers, and its port."""
    port, = free_ports(1)
    server = subprocess.Popen(
        [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return server, port
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise RuntimeError("Redis does not answer")


def start_weed(folder):
    """A process that answers, its ports, and the environment of its clients. Buckets are made as they are written."""
    ports = free_ports(4)
    config = os.path.join(folder, "s3.json")
    with open(config, "w", encoding="utf-8") as f:
        json.dump({"identities": [{"name": "test", "actions": ["Admin", "Read", "Write", "List"],
                                   "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}]}]}, f)
    s3, master, volume, filer = ports
    server = subprocess.Popen(
        [WEED, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
         f"-volume.port={volume}", f"-filer.port={filer}", "-volume.max=20", "-master.telemetry=false", "-s3",
         f"-s3.port={s3}", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false",
         "-s3.autoCreateBucket"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "no_proxy": "127.0.0.1"}
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{s3}/", timeout=1).close()
            return server, ports, environment
        except urllib.error.HTTPError:
            return server, ports, environment
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise RuntimeError("SeaweedFS does not answer")


def clean_up_weed(ports):
    """Sockets that it leaves."""
    for kind, port in zip(("s3", "master", "volume", "filer"), ports):
        for name in (f"{kind}-{port}", f"{kind}-grpc-{port + 10000}"):
            if os.path.exists(f"/tmp/seaweedfs-{name}.sock"):
                os.remove(f"/tmp/seaweedfs-{name}.sock")
