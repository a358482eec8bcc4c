// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Loads from a bucket, verified, beside curl's own ranged GETs of the same objects in the same run, by
// turns, as many at once and of the same size; both throw away what they got.
//
//     s3_bench s3://BUCKET/PREFIX [ROUNDS]     credentials and server as AWS tools take them
//     CAKE_TEST_WEED=PROGRAM s3_bench          a SeaweedFS of its own on loopback
//
// Stores 512 MiB there, which are erased at the end. Needs the program curl. The server shares the
// processors with both.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "cake/storage/s3.hpp"
#include "remote_load.hpp"
#include "tests/storage/s3_weed.hpp"

namespace {

using namespace cake;
using cake_bench::Clock;
using cake_bench::kChunks;
using cake_bench::seconds_since;

constexpr std::size_t kPiece = std::size_t{4} << 20;

class Bench {
 public:
  explicit Bench(const S3Options& options)
      : options_(options), store_(options), load_(store_), object_(load_.bytes() / kChunks) {
    write_config();
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() { std::remove(config_.c_str()); }

  double load() { return load_.load(); }
  /// GB/s of the same bytes by the program curl.
  double curl() {
    const std::string command =
        "curl --no-progress-meter --fail --parallel --parallel-immediate "
        "--parallel-max " +
        std::to_string(options_.connections) + " --config " + config_;
    const auto begin = Clock::now();
    if (std::system(command.c_str()) != 0) {
      throw Exception({Errc::io, 0, "curl failed; is the program installed?"});
    }
    return static_cast<double>(load_.bytes()) / 1e9 / seconds_since(begin);
  }

 private:
  void write_config() {
    std::string name = "/tmp/cake-s3-bench-XXXXXX";
    ::close(::mkstemp(name.data()));
    config_ = name;
    std::ofstream out(config_);
    for (const ChunkKey& key : load_.keys()) {
      const std::string hex = key.hex();
      for (std::size_t at = 0; at < object_; at += kPiece) {
        if (out.tellp() > 0) out << "next\n";
        out << "url = \"" << store_.url() << "/" << hex.substr(0, 2) << "/" << hex
            << ".ckv\"\nrange = \"" << at << "-" << std::min(at + kPiece, object_) - 1
            << "\"\noutput = \"/dev/null\"\naws-sigv4 = \"aws:amz:" << options_.region
            << ":s3\"\nuser = \"" << options_.credentials.access_key << ":"
            << options_.credentials.secret_key << "\"\n";
        if (!options_.credentials.session_token.empty()) {
          out << "header = \"x-amz-security-token: " << options_.credentials.session_token
              << "\"\n";
        }
      }
    }
  }

  S3Options options_;
  S3Storage store_;
  cake_bench::RemoteLoad<S3Storage> load_;
  std::uint64_t object_ = 0;
  std::string config_;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    std::unique_ptr<cake_s3_test::Weed> weed;
    S3Options options;
    if (argc > 1) {
      options = s3_options(argv[1]).value();
    } else {
      const char* const program = cake_s3_test::weed_program();
      if (program == nullptr) return 2;
      weed = std::make_unique<cake_s3_test::Weed>(program);
      options = weed->options();
    }
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
    Bench bench(options);
    std::printf("%u connections, %u threads; ", options.connections, options.threads);
    cake_bench::compare(
        "curl", rounds, [&] { return bench.load(); }, [&] { return bench.curl(); });
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "s3_bench: %s\n", e.what());
    return 1;
  }
}
