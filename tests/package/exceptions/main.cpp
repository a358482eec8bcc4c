// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An exception that compiled code of cake throws is caught as cake::Exception: here, and across a plugin.
#include <dlfcn.h>

#include <cake/chunk/format.hpp>
#include <cake/storage/posix.hpp>
#include <cstdio>

namespace {

constexpr const char* kNoParent = "no-such-folder/store";

// The error that `call` throws; `ok` where it throws something else or nothing.
template <class Call>
cake::Errc thrown_by(const char* what, Call call) {
  try {
    call();
    std::printf("%s: nothing was thrown\n", what);
  } catch (const cake::Exception& e) {
    std::printf("%s: %s\n", what, e.what());
    return e.error().code;
  } catch (const std::exception& e) {
    std::printf("%s: not caught by its type: %s\n", what, e.what());
  }
  return cake::Errc::ok;
}

}  // namespace

int main() {
  void* const plugin = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
  if (plugin == nullptr) return std::printf("%s\n", dlerror()), 1;
  auto* const open_store = reinterpret_cast<void (*)(const char*)>(dlsym(plugin, "open_store"));
  if (open_store == nullptr) return std::printf("%s\n", dlerror()), 1;

  const auto here = thrown_by("store", [] { cake::PosixStorage({.directory = kNoParent}); });
  const auto there = thrown_by("store of the plugin", [&] { open_store(kNoParent); });
  const auto geometry = thrown_by("geometry", [] { cake::ChunkGeometry({}, 0); });
  return here != cake::Errc::ok && there == here && geometry == cake::Errc::invalid_argument ? 0
                                                                                             : 1;
}
