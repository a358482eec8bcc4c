#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The quickstart over a bucket: of SeaweedFS on loopback, which this test starts and stops.

usage: quickstart_s3_test.py QUICKSTART (the model as for quickstart_test.py; CAKE_TEST_WEED names the program)
Exit status 77: the model or SeaweedFS is not there, and nothing was tested.
"""
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

from quickstart_remote import RemoteStore, free_ports, run

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


class Bucket(RemoteStore):
    STORE = "s3://bucket/kv"
    SECRET = SECRET

    def start(self):
        self.ports = free_ports(4)
        with open(self.path("s3.json"), "w", encoding="utf-8") as f:
            json.dump({"identities": [{"name": "test", "actions": ["Admin", "Read", "Write", "List"],
                                       "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}]}]}, f)
        s3, master, volume, filer = self.ports
        self.server = subprocess.Popen(
            [os.environ["CAKE_TEST_WEED"], "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
             f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-volume.max=20",
             "-master.telemetry=false", "-s3", f"-s3.port={s3}", f"-s3.config={self.path('s3.json')}",
             "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.autoCreateBucket"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{s3}/", timeout=1).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        else:
            self.fail("SeaweedFS does not answer")

        self.environment = {
            "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports[0]}", "no_proxy": "127.0.0.1"}

    def clean_up(self):
        for kind, port in zip(("s3", "master", "volume", "filer"), self.ports):
            for name in (f"{kind}-{port}", f"{kind}-grpc-{port + 10000}"):
                if os.path.exists(f"/tmp/seaweedfs-{name}.sock"):
                    os.remove(f"/tmp/seaweedfs-{name}.sock")

    def test_three_modes_over_a_bucket_give_one_answer_and_a_second_run_hits(self):
        self.check_three_modes("s3://bucket/kv")

    def test_what_is_wrong_with_a_bucket_is_told_before_any_work(self):
        refused = self.check_refused
        refused("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", AWS_SECRET_ACCESS_KEY="")
        refused("the address of a bucket is s3://BUCKET/PREFIX", store="s3:bucket")
        refused("the signature is refused; look at AWS_SECRET_ACCESS_KEY", AWS_SECRET_ACCESS_KEY="another")
        refused("the server does not know the access key", AWS_ACCESS_KEY_ID="another")
        refused("the server cannot be reached", AWS_ENDPOINT_URL="http://127.0.0.1:9")


if __name__ == "__main__":
    run(skip=None if os.access(os.environ.get("CAKE_TEST_WEED") or "", os.X_OK) else
        "[no SeaweedFS] skipped: CAKE_TEST_WEED names no program (bash tests/run.sh fetches it)")
