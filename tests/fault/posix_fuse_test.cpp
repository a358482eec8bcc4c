// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A store on a real mount that lacks things, fails, hangs or goes away. Needs FUSE and root; is
// skipped by name elsewhere.
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

#include "catch.hpp"
#include "disk_prompt.hpp"
#include "mount_faults.hpp"
#include "tests/storage/posix_helpers.hpp"

namespace {

using namespace cake;
using sample::complaint;
using sample::Directory;
using sample::says;

/// Another directory, mounted through the faulty file system.
class FaultyMount {
 public:
  FaultyMount() {
    const auto faults = base_.path() / "faults";
    std::filesystem::create_directory(base_.path() / "below");
    std::filesystem::create_directory(path());
    std::filesystem::permissions(base_.path() / "below", std::filesystem::perms::owner_all);
    const int file = ::open(faults.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (::ftruncate(file, sizeof(fault::MountFaults)) != 0) throw std::runtime_error("ftruncate");
    void* const shared =
        ::mmap(nullptr, sizeof(fault::MountFaults), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    if (shared == MAP_FAILED) throw std::runtime_error("mmap");
    faults_ = static_cast<fault::MountFaults*>(shared);
    mount();
  }
  FaultyMount(const FaultyMount&) = delete;
  FaultyMount& operator=(const FaultyMount&) = delete;
  ~FaultyMount() {
    unmount();
    ::munmap(faults_, sizeof(fault::MountFaults));
  }
  bool mounted() const { return server_ > 0; }
  std::filesystem::path path() const { return base_.path() / "mount"; }
  std::filesystem::path below() const { return base_.path() / "below"; }
  fault::MountFaults& faults() { return *faults_; }

  void mount() {
#ifdef CAKE_FAULTY_MOUNT
    if (::geteuid() != 0 || ::access("/dev/fuse", R_OK | W_OK) != 0) return;
    struct stat before {
    }, now{};
    ::stat(path().c_str(), &before);
    server_ = ::fork();
    if (server_ == 0) {
      ::execl(CAKE_FAULTY_MOUNT, "faulty_mount", below().c_str(), (base_.path() / "faults").c_str(),
              path().c_str(), nullptr);
      ::_exit(127);
    }
    for (int i = 0; i < 5000; ++i) {
      if (::stat(path().c_str(), &now) == 0 && now.st_dev != before.st_dev) return;
      if (::waitpid(server_, nullptr, WNOHANG) == server_) break;
      ::usleep(2000);
    }
    server_ = -1;
#endif
  }
  /// As when its server dies: everything there fails until it is mounted again.
  void kill_server() {
    ::kill(server_, SIGKILL);
    ::waitpid(server_, nullptr, 0);
    server_ = -1;
  }
  void unmount() {
    faults_->hang_read = faults_->hang_open = faults_->hang_look = 0;
    ::umount2(path().c_str(), MNT_DETACH);
    if (server_ > 0) kill_server();
  }
  void wait_until_hanging(int calls) {
    while (faults_->hanging < calls) ::usleep(1000);
  }

 private:
  Directory base_;
  fault::MountFaults* faults_ = nullptr;
  pid_t server_ = -1;
};

/// Ends the test case as skipped (ctest looks for the word in brackets) where nothing can be
/// mounted.
#define CAKE_NEEDS_MOUNT(mount)                                                      \
  if (!(mount).mounted()) {                                                          \
    std::printf("[no FUSE] skipped: it needs fuse3, /dev/fuse and the user root\n"); \
    return;                                                                          \
  }                                                                                  \
  static_assert(true)

constexpr std::size_t kSize = 16 * 4096;

/// Files below the mount. FUSE closes late, and keeps what is open under another name until then.
std::size_t files_below(FaultyMount& mount, std::size_t most) {
  for (int i = 0; i < 5000 && sample::count_files(mount.below()) > most; ++i) ::usleep(1000);
  return sample::count_files(mount.below());
}

/// Writes, finds, reads, replaces and erases an object.
void use(PosixStorage& store, std::uint64_t seed = 1) {
  const auto bytes = sample::content(seed, kSize);
  const ChunkKey key = sample::key_of(seed);
  for (int round = 0; round < 2; ++round) {
    REQUIRE(store.write_new(key, bytes.bytes()).value());
    CHECK(sample::look(store, key).size == kSize);
    CHECK(sample::equal(sample::fetch(store, key, kSize).bytes(), bytes.bytes()));
    CHECK_FALSE(store.write_new(key, bytes.bytes()).value());
    if (round == 0) REQUIRE(store.erase(key));
  }
  REQUIRE(store.erase(key));
  CHECK_FALSE(sample::look(store, key).stored());
}

TEST_CASE("mounts without hard links or without some kind of rename store objects all the same") {
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  auto& faults = mount.faults();
  for (const int link : {0, EPERM, EOPNOTSUPP, ENOSYS, EMLINK, EXDEV}) {
    for (const int flags : {0, EINVAL, EOPNOTSUPP, EPERM}) {
      for (const int rename : {0, EOPNOTSUPP}) {
        if (link != 0 && rename != 0) continue;
        INFO("link " << link << ", rename with flags " << flags << ", rename " << rename);
        faults.link_error = link;
        faults.rename_flags_error = flags;
        faults.rename_error = rename;
        PosixStorage store({.directory = mount.path(), .threads = 2});
        use(store);
        CHECK(files_below(mount, 0) == 0);
      }
    }
  }
  // Nothing is left to publish by: refused at open, and nothing left behind.
  faults.link_error = EPERM;
  faults.rename_error = EOPNOTSUPP;
  CHECK(says(complaint({.directory = mount.path()}),
             {mount.path().string(), "no object can be stored in it"}));
  CHECK(files_below(mount, 0) == 0);
}

TEST_CASE("mounts that refuse locks, syncing, room set aside or O_DIRECT store objects") {
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  auto& faults = mount.faults();
  for (const int number : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    INFO("errno " << number);
    faults.lock_error = faults.sync_error = faults.allocate_error = number;
    faults.sync_folder_error = number;
    faults.direct_open_error = EINVAL;
    {
      PosixStorage store({.directory = mount.path(), .threads = 2, .capacity_bytes = 4 * kSize});
      CHECK_FALSE(store.direct());
      use(store);
      const auto bytes = sample::content(1, kSize);
      for (std::uint64_t i = 10; i < 20; ++i) {
        REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
        CHECK(files_below(mount, 4) <= 4);
      }
    }
    faults.sync_error = 0;  // only folders have no sync
    PosixStorage durable({.directory = mount.path(), .threads = 2, .durable = true});
    use(durable);
    faults.sync_error = number;
  }
}

TEST_CASE("a mount that shows one owner or mode for all is refused with a remedy, or accepted") {
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  auto& faults = mount.faults();
  for (const int mode : {0777, 0022, 0666}) {
    faults.shown_mode = mode;
    CHECK(says(complaint({.directory = mount.path()}), {"chmod cannot help", "trust_directory"}));
    PosixStorage store({.directory = mount.path(), .threads = 2, .trust_directory = true});
    use(store);
  }
  faults.shown_mode = 0;
  faults.shown_owner = 12346;
  CHECK(says(complaint({.directory = mount.path()}),
             {"uid 12345", "chown cannot help", "trust_directory"}));
  PosixStorage store({.directory = mount.path(), .threads = 2, .trust_directory = true});
  use(store);
}

TEST_CASE("a mount that refuses every change serves what is there") {
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  const auto bytes = sample::content(1, kSize);
  PosixStorage({.directory = mount.path()}).write(sample::key_of(1), bytes.bytes()).value();
  mount.faults().change_error = EROFS;
  PosixStorage store({.directory = mount.path(), .threads = 2});
  CHECK(store.stats().read_only);
  CHECK(sample::equal(sample::fetch(store, sample::key_of(1), kSize).bytes(), bytes.bytes()));
  CHECK(store.write(sample::key_of(2), bytes.bytes()).code() == Errc::unsupported);
}

TEST_CASE("a directory that is mounted read-only serves what is there") {
  const Directory base;
  const auto path = base.path() / "store", mounted = base.path() / "mounted";
  const auto bytes = sample::content(1, kSize);
  PosixStorage({.directory = path}).write(sample::key_of(1), bytes.bytes()).value();
  std::filesystem::create_directory(mounted);
  const auto file = sample::file_of(path, sample::key_of(1));
  for (const auto& folder : {base.path(), path, file.parent_path()}) {
    REQUIRE(::chmod(folder.c_str(), 0755) == 0);
  }
  REQUIRE(::chmod(file.c_str(), 0644) == 0);
  const int code = sample::in_child([&] {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount(path.c_str(), mounted.c_str(), nullptr, MS_BIND, nullptr) != 0 ||
        ::mount("none", mounted.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
      ::_exit(77);
    }
    PosixStorage store({.directory = mounted});
    sample::expect(store.stats().read_only, "read-only");
    sample::expect(
        sample::equal(sample::fetch(store, sample::key_of(1), kSize).bytes(), bytes.bytes()),
        "it serves");
    const Status status = store.write(sample::key_of(2), bytes.bytes());
    sample::expect(status.code() == Errc::unsupported, "write");
    sample::expect(says(status.error().message(), {"only serves", "read-only file system"}), "why");
    // Somebody else serves what root has put there, as from a container's image.
#ifndef __SANITIZE_THREAD__  // which allows no threads after fork()
    const int other = sample::in_child([&] {
      sample::expect(::setgid(12345) == 0 && ::setuid(12345) == 0, "setuid");
      PosixStorage served({.directory = mounted});
      sample::expect(served.stats().read_only, "read-only");
      sample::expect(sample::read_code(served, sample::key_of(1), kSize) == Errc::ok, "it serves");
    });
    sample::expect(other == 0, "another user");
#endif
    // Remounted under a store that was opened while it could be written.
    ::mount("none", mounted.c_str(), nullptr, MS_BIND | MS_REMOUNT, nullptr);
    PosixStorage writable({.directory = mounted, .capacity_bytes = 2 * kSize});
    sample::expect(writable.write(sample::key_of(2), bytes.bytes()).has_value(), "write");
    ::mount("none", mounted.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr);
    sample::expect(!writable.write(sample::key_of(3), bytes.bytes()), "no more");
    sample::expect(sample::read_code(writable, sample::key_of(1), kSize) == Errc::ok, "served");
    ::mount("none", mounted.c_str(), nullptr, MS_BIND | MS_REMOUNT, nullptr);
    sample::expect(writable.write(sample::key_of(3), bytes.bytes()).has_value(), "again");
  });
  if (code == 77) {
    std::printf("[no FUSE] skipped: it needs the right to mount\n");
    return;
  }
  CHECK(code == 0);
}

TEST_CASE("a mount that is full in the middle of an object keeps nothing of it") {
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  PosixStorage store({.directory = mount.path(), .threads = 2});
  const auto bytes = sample::content(1, kSize);
  for (const int number : {ENOSPC, EDQUOT, EFBIG, EIO}) {
    mount.faults().write_error = number;
    const Status status = store.write(sample::key_of(1), bytes.bytes());
    REQUIRE_FALSE(status);
    CHECK(status.error().native == number);
    CHECK(files_below(mount, 0) == 0);
    mount.faults().write_error = 0;
    use(store);
  }
}

TEST_CASE("on a mount where one file hangs, other files are read, found and written") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  const auto bytes = sample::content(1, kSize);
  std::optional<PosixStorage> store;
  store.emplace(
      PosixOptions{.directory = mount.path(), .threads = 2, .op_bytes = 4096, .engine = engine});
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store->write(sample::key_of(i), bytes.bytes()));
  auto& faults = mount.faults();
  std::strncpy(faults.only, sample::key_of(0).hex().c_str(), sizeof faults.only - 1);
  const AlignedBuffer late(kSize);
  faults.hang_read = 1;
  auto hung = store->read(0, sample::key_of(0), 0, late.bytes());
  mount.wait_until_hanging(1);
  for (std::uint64_t i = 1; i < 4; ++i) {
    CHECK(sample::equal(sample::fetch(*store, sample::key_of(i), kSize).bytes(), bytes.bytes()));
  }
  CHECK_FALSE(hung.ready());
  faults.hang_look = 1;
  std::thread looking([&] { CHECK(sample::look(*store, sample::key_of(0)).stored()); });
  mount.wait_until_hanging(2);
  CHECK(sample::look(*store, sample::key_of(1)).stored());
  CHECK(store->write(sample::key_of(9), bytes.bytes()));
  CHECK(sample::read_code(*store, sample::key_of(9), kSize) == Errc::ok);
  faults.hang_read = faults.hang_look = 0;
  looking.join();
  CHECK(hung.wait());
  CHECK(sample::equal(late.bytes(), bytes.bytes()));
}

TEST_CASE("a read that hangs on a mount is computed in time, and its late bytes go nowhere") {
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  fault::DiskPrompt prompt;
  auto& faults = mount.faults();
  for (const std::uint32_t hung : {0u, 3u}) {
    {
      PosixStorage store({.directory = mount.path(), .threads = 2});
      prompt.save_missing(store);
    }
    std::strncpy(faults.only, prompt.keys[hung].hex().c_str(), sizeof faults.only - 1);
    faults.hang_read = 1;
    std::thread release;
    {
      PosixStorage store({.directory = mount.path(), .threads = 2});
      // The loader's end waits for the read, which ends once the prompt is over.
      release = std::thread([&] {
        mount.wait_until_hanging(1);
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        faults.hang_read = 0;
      });
      auto session = fault::DiskPrompt::patient();
      session.read_timeout = std::chrono::milliseconds(100);
      const PrefillReport report = prompt.load(store, session);  // the KV is right
      const auto computed = fault::DiskPrompt::computed(report);
      CHECK(std::find(computed.begin(), computed.end(), hung) != computed.end());
      CHECK(report.chunks[hung].load_error == Errc::timeout);
    }
    release.join();
    PosixStorage store({.directory = mount.path(), .threads = 2});
    CHECK(fault::DiskPrompt::computed(prompt.load(store)).empty());
  }
}

TEST_CASE("a mount whose server died is told, and used again once it is mounted again") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  PosixStorage store({.directory = mount.path(), .threads = 2, .engine = engine});
  const auto bytes = sample::content(1, kSize);
  const ChunkKey key = sample::key_of(1);
  REQUIRE(store.write(key, bytes.bytes()));
  mount.kill_server();
  const auto found = store.lookup(std::span(&key, 1));
  REQUIRE_FALSE(found);
  CHECK(says(found.error().message(), {mount.path().string(), "mount it again"}));
  const Status status = store.write(sample::key_of(2), bytes.bytes());
  REQUIRE_FALSE(status);
  CHECK(says(status.error().message(), {"mount it again"}));
  CHECK(sample::read_code(store, key, kSize) != Errc::ok);
  ::umount2(mount.path().c_str(), MNT_DETACH);
  mount.mount();
  REQUIRE(mount.mounted());
  CHECK(sample::equal(sample::fetch(store, key, kSize).bytes(), bytes.bytes()));
  CHECK(store.write(sample::key_of(2), bytes.bytes()));
  CHECK(sample::look(store, key).stored());
}

TEST_CASE("writers that are killed on a mount leave at most what the next store removes") {
  FaultyMount mount;
  CAKE_NEEDS_MOUNT(mount);
  const auto bytes = sample::content(1, 64 * 4096);
  for (int round = 0; round < 10; ++round) {
    const pid_t child = sample::start_child([&] {
      PosixStorage store({.directory = mount.path(), .threads = 1});
      for (std::uint64_t i = 0;; ++i) {
        store.write(sample::key_of(i % 8), bytes.bytes()).value();
        store.erase(sample::key_of(i % 8)).value();
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + 3 * round));
    ::kill(child, SIGKILL);
    sample::join_child(child);
    PosixStorage store({.directory = mount.path(), .threads = 1});
    std::size_t whole = 0;
    for (std::uint64_t i = 0; i < 8; ++i) {
      if (!sample::look(store, sample::key_of(i)).stored()) continue;
      CHECK(sample::equal(sample::fetch(store, sample::key_of(i), bytes.size()).bytes(),
                          bytes.bytes()));
      ++whole;
    }
    // The constructor's own probe may have been cut short, too: an object of one page.
    CHECK(files_below(mount, whole + 1) <= whole + 1);
    for (const auto& entry : std::filesystem::directory_iterator(mount.below())) {
      std::filesystem::remove_all(entry.path());
    }
  }
}

}  // namespace
