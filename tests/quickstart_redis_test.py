#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The quickstart over Redis on loopback, which this test starts and stops.

usage: quickstart_redis_test.py QUICKSTART (the model as for quickstart_test.py; CAKE_TEST_REDIS names the program, else
it is redis-server)
Exit status 77: the model or Redis is not there, and nothing was tested.
"""
import servers
from quickstart_remote import RemoteStore, run


class Redis(RemoteStore):
    SECRET = "WordOfTheTest"

    def start(self):
        self.server, port = servers.start_redis(self.folder, self.SECRET)
        self.at = f"127.0.0.1:{port}/kv"
        self.STORE = f"redis://:{self.SECRET}@{self.at}"

    def test_three_modes_over_redis_give_one_answer_and_a_second_run_hits(self):
        self.check_three_modes(f"redis://{self.at}")

    def test_what_is_wrong_with_a_server_is_told_before_any_work(self):
        refused = self.check_refused
        refused("the server wants a password", store=f"redis://{self.at}")
        refused("the server refuses the user or the password", store=f"redis://:another@{self.at}")
        refused("the server cannot be reached", store="redis://127.0.0.1:9/kv")
        refused("PORT is a number from 1 to 65535", store="redis://host:port/kv")
        refused("the address of a server is redis://", store="redis:host")


if __name__ == "__main__":
    run(skip=None if servers.has_redis() else servers.NO_REDIS)
