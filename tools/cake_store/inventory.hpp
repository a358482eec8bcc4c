// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// All objects of a store, what their headers say, and which of them a command is about.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cake/chunk/reader.hpp"
#include "open_store.hpp"

namespace cake::tools {

struct Inventory {
  std::vector<ListedObject> objects;  // by key, each once
  std::uint64_t others = 0;           // entries that are no objects
  std::uint64_t bytes() const;
};

/// All that is there.
Result<Inventory> take_inventory(OpenStore& store);

/// Whether its size may be an object's at all.
bool plausible_size(std::uint64_t bytes);

/// An object and its header.
struct HeadedObject {
  ListedObject object;
  std::optional<ChunkSummary>
      header;  // none: damaged, of another version, or it went away meanwhile
};

/// Reads the first 4 KiB of all objects.
///
/// Errors:  the first failure that is not that of an object alone
Result<std::vector<HeadedObject>> read_headers(OpenStore& store,
                                               const std::vector<ListedObject>& objects,
                                               unsigned workers);

/// What an object has to be. Empty: any.
struct Filter {
  std::string model;   // hex digits that the fingerprint begins with
  std::string tenant;  // of the tag
  bool empty() const { return model.empty() && tenant.empty(); }
  bool takes(const ChunkSummary& header) const;
};

/// The digits of a model or of a tenant; none: they cannot be.
std::optional<std::string> checked_digits(const std::string& text, std::size_t most);

/// "0123456789abcdef..."
std::string tenant_hex(const std::array<std::byte, 16>& tag);

/// Of all objects those that the filter takes; without a filter all, damaged ones too.
Result<std::vector<ListedObject>> chosen(OpenStore& store, const Inventory& all,
                                         const Filter& filter, unsigned workers);

/// Reads a whole object and verifies it.
///
/// Errors:  corrupt, mismatch, unsupported: as verify_object(); else of the read. The text names the
///          place
Result<AlignedBuffer> read_verified(OpenStore& store, const ListedObject& object,
                                    const char* doing);

}  // namespace cake::tools
