// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Makes digests right again after an object was changed, as an attacker or a faulty writer would:
// what is refused then was refused by a check of its own.
#pragma once

#include <cstring>
#include <span>

#include "cake/chunk/digest.hpp"
#include "src/chunk/wire.hpp"

namespace cake::inline CAKE_ABI::sample {

/// Seals the tables (of `head`, as far as it reaches), then the header.
inline void reseal_head(std::span<std::byte> head) {
  if (head.size() < sizeof(wire::Header)) return;
  wire::Header header;
  std::memcpy(&header, head.data(), sizeof header);
  header.tables_crc = crc32c(head.subspan(sizeof header));
  std::memcpy(head.data(), &header, sizeof header);
  header.crc = crc32c(head.first(wire::kSealed));
  std::memcpy(head.data() + wire::kSealed, &header.crc, sizeof header.crc);
}

/// Seals the last page of an object, after its head: says that both belong together.
inline void reseal_footer(std::span<std::byte> object) {
  wire::Footer footer;
  std::byte* at = object.data() + object.size() - sizeof footer;
  std::memcpy(&footer, at, sizeof footer);
  std::memcpy(&footer.header_crc, object.data() + wire::kSealed, sizeof footer.header_crc);
  std::memcpy(at, &footer, sizeof footer);
  footer.crc = crc32c({at, wire::kSealed});
  std::memcpy(at + wire::kSealed, &footer.crc, sizeof footer.crc);
}

}  // namespace cake::inline CAKE_ABI::sample
