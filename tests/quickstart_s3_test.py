#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The quickstart over a bucket: of SeaweedFS on loopback, which this test starts and stops.

usage: quickstart_s3_test.py QUICKSTART (the model as for quickstart_test.py; CAKE_TEST_WEED names the program)
Exit status 77: the model or SeaweedFS is not there, and nothing was tested.
"""
import servers
from quickstart_remote import RemoteStore, run


class Bucket(RemoteStore):
    STORE = "s3://bucket/kv"
    SECRET = servers.SECRET

    def start(self):
        self.server, self.ports, self.environment = servers.start_weed(self.folder)

    def clean_up(self):
        servers.clean_up_weed(self.ports)

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
    run(skip=None if servers.has_weed() else servers.NO_WEED)
