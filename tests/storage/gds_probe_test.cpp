// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every check of the probe, failing; what is read is right whichever it is.
#include "catch.hpp"
#include "contract.hpp"
#include "gds_helpers.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using fault::FakeCufile;
using sample::Directory;
using sample::fake;
using sample::FakeDevice;
using sample::gds_options;
using sample::NothingLeft;
using sample::ThroughDevice;

/// The last check tried, and that it failed: the store is a POSIX one that works.
void check_refused(const GdsOptions& options, FakeDevice* device, GdsCheck check, int native,
                   const std::string& text) {
  GdsStorage storage(options, device);
  const GdsReport report = storage.report();
  INFO(report.text());
  CHECK_FALSE(report.device);
  CHECK_FALSE(report.demoted);
  CHECK(report.mode == GdsMode::none);
  REQUIRE(report.checks.size() == static_cast<std::size_t>(check) + 1);
  for (const GdsCheckResult& result : report.checks) {
    CHECK(result.good == (result.check != check));
    CHECK_FALSE(result.detail.empty());
  }
  CHECK(report.checks.back().check == check);
  CHECK(report.checks.back().native == native);
  CHECK(report.reason.find(text) != std::string::npos);
  CHECK(storage.path().find("POSIX: " + std::string(to_string(check))) == 0);
  CHECK(storage.device_staging() == nullptr);
  sample::check_contract(storage);
  CHECK(sample::count_files(options.posix.directory) == 0);
  if (device == nullptr || device->fail_use) return;
  ThroughDevice through(storage, *device);
  sample::check_contract(through);
}

TEST_CASE("without device memory a GDS store is a POSIX one") {
  const NothingLeft end;
  const Directory directory;
  check_refused(gds_options(directory.path()), nullptr, GdsCheck::memory, 0, "no device memory");
  FakeDevice device(1 << 20);
  device.fail_use = true;
  check_refused(gds_options(directory.path()), &device, GdsCheck::memory, 700,
                "the device is lost");
  CHECK(fake().buffers == 0);
}

TEST_CASE("without the library a GDS store is a POSIX one, and says what the linker said") {
  const NothingLeft end;
  const Directory directory;
  FakeDevice device(1 << 20);
  GdsOptions options = gds_options(directory.path());
  options.library = "libcufile-that-is-not-there.so.0";
  check_refused(options, &device, GdsCheck::library, 0, options.library);
}

TEST_CASE("a library without a function that reading needs is not used") {
  const NothingLeft end(fake("no_read"));
  const Directory directory;
  FakeDevice device(1 << 20);
  GdsOptions options = gds_options(directory.path());
  options.library = sample::fake_library("no_read");
  check_refused(options, &device, GdsCheck::symbols, 0, "cuFileRead is missing");
  CHECK(fake("no_read").driver_opens == 0);
}

TEST_CASE("a driver that does not open is reported by its number, and tried again later") {
  // A variant whose driver no other test opens.
  FakeCufile& library = fake("driver");
  const NothingLeft end(library);
  const Directory directory;
  FakeDevice device(1 << 20, &library);
  GdsOptions options = gds_options(directory.path());
  options.library = sample::fake_library("driver");
  for (const int code : {5001, 5033}) {
    library.driver_open = code;
    check_refused(options, &device, GdsCheck::driver, code, std::to_string(code));
  }
  library.driver_open = 0;
  const int before = library.driver_opens;
  {
    const GdsStorage storage(options, &device);
    CHECK(storage.report().device);
  }
  CHECK(library.driver_opens == std::max(before, 1));
}

TEST_CASE("a driver that never comes back from being opened means POSIX, and later may do") {
  FakeCufile& library = fake("hanging");
  const NothingLeft end(library);
  const Directory directory;
  FakeDevice device(1 << 20, &library);
  GdsOptions options = gds_options(directory.path());
  options.library = sample::fake_library("hanging");
  options.driver_timeout = std::chrono::milliseconds(20);
  library.hang_driver = true;
  for (int i = 0; i < 3; ++i) {
    check_refused(options, &device, GdsCheck::driver, ETIMEDOUT, "did not come back within 20 ms");
  }
  library.hang_driver = false;
  options.driver_timeout = std::chrono::minutes(1);
  const GdsStorage storage(options, &device);
  CHECK(storage.report().device);
  CHECK(library.driver_opens == 1);
}

TEST_CASE("a driver that the engine has opened already will do") {
  FakeCufile& library = fake("opened");
  const NothingLeft end(library);
  const Directory directory;
  FakeDevice device(1 << 20, &library);
  GdsOptions options = gds_options(directory.path());
  options.library = sample::fake_library("opened");
  library.driver_open = 5026;
  const GdsStorage storage(options, &device);
  CHECK(storage.report().device);
}

TEST_CASE("the driver is opened once, however many stores there are") {
  const NothingLeft end;
  const Directory directory;
  for (int i = 0; i < 3; ++i) {
    FakeDevice device(1 << 20);
    const GdsStorage storage(gds_options(directory.path()), &device);
    CHECK(storage.report().device);
    CHECK(fake().driver_opens == 1);
    CHECK(fake().buffers == 1);
  }
}

TEST_CASE("device memory that does not register means POSIX") {
  for (const int code : {5016, 5036}) {
    const NothingLeft end;
    const Directory directory;
    FakeDevice device(1 << 20);
    fake().buf_register = code;
    check_refused(gds_options(directory.path()), &device, GdsCheck::buffers, code,
                  std::to_string(code));
  }
}

TEST_CASE("a directory whose files do not register means POSIX, with nothing left registered") {
  for (const int code : {5008, 5019, 5027, 5028}) {
    const NothingLeft end;
    const Directory directory;
    FakeDevice device(1 << 20);
    fake().handle_register = code;
    check_refused(gds_options(directory.path()), &device, GdsCheck::handle, code,
                  std::to_string(code));
    CHECK(device.allocated == 0);
  }
}

TEST_CASE("a probe that cannot be read means POSIX") {
  const std::pair<std::int64_t, int> failures[] = {{-1, EIO}, {-1, EINVAL}, {-5011, 0}, {-5030, 0}};
  for (const auto& [result, number] : failures) {
    const NothingLeft end;
    const Directory directory;
    FakeDevice device(1 << 20);
    fake().bad_result = result;
    fake().bad_errno = number;
    fake().bad_reads = FakeCufile::kAlways;
    check_refused(gds_options(directory.path()), &device, GdsCheck::pattern,
                  result == -1 ? number : static_cast<int>(-result), "cuFileRead failed");
    CHECK(device.allocated == 0);
  }
}

TEST_CASE("a probe that arrives wrong in one byte means POSIX") {
  for (const std::uint64_t at : {0u, 5000u, 262143u}) {
    const NothingLeft end;
    const Directory directory;
    FakeDevice device(1 << 20);
    fake().flip_at = at;
    check_refused(gds_options(directory.path()), &device, GdsCheck::pattern, 0,
                  "first at byte " + std::to_string(at));
  }
}

TEST_CASE("a probe in pieces is whole, and one whose reads return nothing is none") {
  const NothingLeft end;
  const Directory directory;
  FakeDevice device(1 << 20);
  fake().most_bytes = 12288 + 512;  // not at a page: the rest is read again
  {
    const GdsStorage storage(gds_options(directory.path()), &device);
    CHECK(storage.report().device);
  }
  fake().most_bytes = 512;
  check_refused(gds_options(directory.path()), &device, GdsCheck::pattern, 0, "did not go on");
}

TEST_CASE("a device that cannot be copied to means POSIX") {
  const NothingLeft end;
  const Directory directory;
  FakeDevice device(1 << 20);
  device.fail_copies = true;
  GdsStorage storage(gds_options(directory.path()), &device);
  CHECK_FALSE(storage.report().device);
  CHECK(storage.report().checks.back().check == GdsCheck::pattern);
  CHECK(storage.report().checks.back().native == 700);
  sample::check_contract(storage);
}

TEST_CASE("what the statistics say decides, unless it is forced") {
  struct Case {
    int way;
    GdsMode mode;
    bool force;
    bool device;
    const char* path;
  };
  const Case cases[] = {
      {FakeCufile::p2p, GdsMode::native, false, true, "native GDS"},
      {FakeCufile::nvfs, GdsMode::native, false, true, "native GDS"},
      {FakeCufile::nvfs, GdsMode::native, true, true, "native GDS"},
      {FakeCufile::posix, GdsMode::compat, false, false, "POSIX: cuFile would only make POSIX"},
      {FakeCufile::posix, GdsMode::compat, true, true, "cuFile's compatibility mode (forced)"},
      {FakeCufile::untold, GdsMode::unknown, false, false, "POSIX: cuFile works, but does not say"},
      {FakeCufile::untold, GdsMode::unknown, true, true, "cuFile, which way it does not say"},
  };
  for (const Case& c : cases) {
    const NothingLeft end;
    const Directory directory;
    FakeDevice device(1 << 20);
    fake().way = c.way;
    GdsOptions options = gds_options(directory.path());
    options.force = c.force;
    GdsStorage storage(options, &device);
    const GdsReport report = storage.report();
    INFO(report.text());
    CHECK(report.mode == c.mode);
    CHECK(report.device == c.device);
    CHECK(report.forced == (c.device && c.mode != GdsMode::native));
    CHECK(report.library_version == 1150);
    CHECK(report.checks.size() == 8);
    CHECK(report.checks.back().good == (c.mode == GdsMode::native));
    CHECK(storage.path().find(c.path) == 0);
    CHECK((storage.device_staging() == &device) == c.device);
    CHECK(fake().buffers == (c.device ? 1 : 0));
    CHECK(fake().handles == 0);  // the probe's is gone
    CHECK(report.text().find("library 1.15") != std::string::npos);
    ThroughDevice through(storage, device);
    sample::check_contract(through);
    CHECK((storage.report().reads > 0) == c.device);
    CHECK((storage.report().bounced > 0) == !c.device);
  }
}

TEST_CASE("a library that has no statistics, or refuses them, is used only when forced") {
  for (const bool missing : {true, false}) {
    for (const bool force : {true, false}) {
      FakeCufile& library = fake(missing ? "no_stats" : "all");
      const NothingLeft end(library);
      const Directory directory;
      FakeDevice device(1 << 20, &library);
      library.get_stats = 5022;
      GdsOptions options = gds_options(directory.path());
      options.library = sample::fake_library(missing ? "no_stats" : "all");
      options.force = force;
      const GdsStorage storage(options, &device);
      CHECK(storage.report().mode == GdsMode::unknown);
      CHECK(storage.report().device == force);
      CHECK(storage.report().checks.back().native == (missing ? 0 : 5022));
    }
  }
}

TEST_CASE("the probe leaves no file, and its leftover of a dead process is removed") {
  const NothingLeft end;
  const Directory directory;
  FakeDevice device(1 << 20);
  const pid_t child = sample::start_child([&] {
    fake().hang = true;  // in the probe
    const GdsStorage storage(gds_options(directory.path()), &device);
  });
  // Opening the store makes other files, too, and removes them at once; the probe's is known by its
  // size.
  const auto probe_files = [&] {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
      std::error_code gone;
      count += entry.is_regular_file(gone) && entry.file_size(gone) == (256u << 10);
    }
    return count;
  };
  while (probe_files() == 0) ::usleep(1000);
  // The probe file is there and locked, so a store that opens meanwhile leaves it.
  { const PosixStorage other({.directory = directory.path()}); }
  CHECK(probe_files() == 1);
  ::kill(child, SIGKILL);
  CHECK(sample::join_child(child) == 128 + SIGKILL);
  const GdsStorage storage(gds_options(directory.path()), &device);
  CHECK(storage.report().device);
  CHECK(sample::count_files(directory.path()) == 0);
}

TEST_CASE("device memory of a single page is enough, and less is too little") {
  const NothingLeft end;
  const Directory directory;
  FakeDevice page(4096);
  CHECK(GdsStorage(gds_options(directory.path()), &page).report().device);
}

TEST_CASE("options out of range are refused by name") {
  const NothingLeft end;
  const Directory directory;
  const auto refused = [&](auto change, const char* name) {
    GdsOptions options = gds_options(directory.path());
    change(options);
    try {
      const GdsStorage storage(options);
      FAIL("taken: " << name);
    } catch (const Exception& e) {
      CHECK(e.error().code == Errc::invalid_argument);
      CHECK(std::string(e.what()).find(name) != std::string::npos);
    }
  };
  refused([](GdsOptions& o) { o.op_bytes = 0; }, "op_bytes");
  refused([](GdsOptions& o) { o.op_bytes = 4097; }, "op_bytes");
  refused([](GdsOptions& o) { o.bounce_bytes = 100; }, "bounce_bytes");
  refused([](GdsOptions& o) { o.max_errors = 0; }, "max_errors");
  refused([](GdsOptions& o) { o.driver_timeout = std::chrono::seconds(0); }, "driver_timeout");
  refused([](GdsOptions& o) { o.library.clear(); }, "library");
  refused([](GdsOptions& o) { o.posix.directory.clear(); }, "directory");
}

}  // namespace
