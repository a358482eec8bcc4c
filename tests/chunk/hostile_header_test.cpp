// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Headers and tables whose digests are right and whose content is not.
#include <functional>
#include <limits>

#include "catch.hpp"
#include "reseal.hpp"
#include "sample.hpp"

namespace {

using namespace cake;

constexpr auto kMost32 = std::numeric_limits<std::uint32_t>::max();
constexpr auto kMost64 = std::numeric_limits<std::uint64_t>::max();

template <class T>
Errc outcome(const std::function<void(T&)>& change, std::size_t offset) {
  auto chunk = sample::make(1);
  const std::size_t head = chunk.head().size();
  T part;
  std::memcpy(&part, chunk.object.data() + offset, sizeof part);
  change(part);
  std::memcpy(chunk.object.data() + offset, &part, sizeof part);
  sample::reseal_head(std::span(chunk.object).first(head));
  sample::reseal_footer(chunk.object);
  return sample::check(chunk.object, chunk.identity).code();
}

TEST_CASE("an unchanged object stays good when it is sealed again") {
  CHECK(outcome<wire::Header>([](auto&) {}, 0) == Errc::ok);
}

namespace {

struct HeaderCase {
  const char* what;
  Errc code;
  std::function<void(wire::Header&)> change;
};
const HeaderCase kWrongHeaders[] = {
    {"other magic", Errc::corrupt, [](wire::Header& h) { h.magic[1] ^= 1; }},
    {"footer's magic", Errc::corrupt, [](wire::Header& h) { h.magic = wire::kFooterMagic; }},
    {"major 0", Errc::unsupported, [](wire::Header& h) { h.major = 0; }},
    {"major 2", Errc::unsupported, [](wire::Header& h) { h.major = 2; }},
    {"lowest unknown feature", Errc::unsupported, [](wire::Header& h) { h.incompatible = 1; }},
    {"highest unknown feature", Errc::unsupported,
     [](wire::Header& h) { h.incompatible = std::uint64_t{1} << 63; }},
    {"other digest", Errc::unsupported, [](wire::Header& h) { h.digest = 2; }},
    {"no digest", Errc::unsupported, [](wire::Header& h) { h.digest = 0; }},
    {"other block", Errc::unsupported, [](wire::Header& h) { h.block_log2 = 63; }},
    {"header of no bytes", Errc::corrupt, [](wire::Header& h) { h.header_bytes = 0; }},
    {"header of 4 GiB", Errc::corrupt, [](wire::Header& h) { h.header_bytes = kMost32; }},
    {"first reserved byte", Errc::corrupt, [](wire::Header& h) { h.reserved[0] = std::byte{1}; }},
    {"last reserved byte", Errc::corrupt,
     [](wire::Header& h) { h.reserved.back() = std::byte{1}; }},
    {"object of no bytes", Errc::corrupt, [](wire::Header& h) { h.object_bytes = 0; }},
    {"object a page shorter", Errc::corrupt, [](wire::Header& h) { h.object_bytes -= 4096; }},
    {"object of all bytes", Errc::corrupt, [](wire::Header& h) { h.object_bytes = kMost64; }},
    {"payload from 0", Errc::corrupt, [](wire::Header& h) { h.payload_begin = 0; }},
    {"payload in the tables", Errc::corrupt, [](wire::Header& h) { h.payload_begin -= 4096; }},
    {"payload not aligned", Errc::corrupt, [](wire::Header& h) { h.payload_begin += 1; }},
    {"payload past the end", Errc::corrupt, [](wire::Header& h) { h.payload_begin = kMost64; }},
    {"payload + bytes overflow", Errc::corrupt,
     [](wire::Header& h) { h.payload_bytes = kMost64 - h.payload_begin + 1; }},
    {"no payload", Errc::corrupt, [](wire::Header& h) { h.payload_bytes = 0; }},
    {"no raw bytes", Errc::corrupt, [](wire::Header& h) { h.raw_bytes = 0; }},
    {"raw bytes of a bomb", Errc::corrupt, [](wire::Header& h) { h.raw_bytes = kMost64; }},
    {"no extents", Errc::corrupt, [](wire::Header& h) { h.n_extents = 0; }},
    {"one extent more", Errc::corrupt, [](wire::Header& h) { ++h.n_extents; }},
    {"extents * 32 overflow", Errc::corrupt, [](wire::Header& h) { h.n_extents = 1u << 27; }},
    {"all extents", Errc::corrupt, [](wire::Header& h) { h.n_extents = kMost32; }},
    {"no digests", Errc::corrupt, [](wire::Header& h) { h.n_digests = 0; }},
    {"digests * 4 overflow", Errc::corrupt, [](wire::Header& h) { h.n_digests = 1u << 30; }},
    {"all digests", Errc::corrupt, [](wire::Header& h) { h.n_digests = kMost32; }},
    {"extents in the header", Errc::corrupt, [](wire::Header& h) { h.extents_offset = 0; }},
    {"extents outside", Errc::corrupt, [](wire::Header& h) { h.extents_offset = kMost64 - 16; }},
    {"digests over extents", Errc::corrupt,
     [](wire::Header& h) { h.digests_offset = h.extents_offset; }},
    {"digests outside", Errc::corrupt, [](wire::Header& h) { h.digests_offset = kMost64 - 2; }},
    {"tokens over digests", Errc::corrupt,
     [](wire::Header& h) { h.tokens_offset = h.digests_offset; }},
    {"tokens outside", Errc::corrupt, [](wire::Header& h) { h.tokens_offset = kMost64 - 2; }},
    {"tables end before they begin", Errc::corrupt, [](wire::Header& h) { h.tables_end = 0; }},
    {"tables end outside", Errc::corrupt, [](wire::Header& h) { h.tables_end = kMost64; }},
    {"other key", Errc::mismatch, [](wire::Header& h) { h.key[0] ^= std::byte{1}; }},
    {"no tokens", Errc::mismatch, [](wire::Header& h) { h.token_count = 0; }},
    {"all tokens", Errc::mismatch, [](wire::Header& h) { h.token_count = kMost32; }},
    {"position overflows", Errc::mismatch, [](wire::Header& h) { h.token_begin = kMost32; }},
    {"no layers", Errc::mismatch, [](wire::Header& h) { h.n_layers = 0; }},
    {"all layers", Errc::mismatch, [](wire::Header& h) { h.n_layers = kMost32; }},
    {"half of the layers", Errc::mismatch, [](wire::Header& h) { h.n_layers /= 2; }},
    {"all heads", Errc::mismatch, [](wire::Header& h) { h.n_kv_heads = kMost32; }},
    {"all of head_dim", Errc::mismatch, [](wire::Header& h) { h.head_dim = kMost32; }},
    {"unknown dtype", Errc::mismatch, [](wire::Header& h) { h.dtype = 200; }},
    {"unknown order", Errc::mismatch, [](wire::Header& h) { h.order = 200; }},
};

}  // namespace

TEST_CASE("a well-sealed header with a wrong field is refused") {
  for (const HeaderCase& one : kWrongHeaders) {
    INFO(one.what);
    CHECK(outcome<wire::Header>(one.change, 0) == one.code);
  }
}

TEST_CASE("a newer minor version with compatible features is read") {
  using wire::Header;
  CHECK(outcome<Header>([](Header& h) { h.compatible = kMost64; }, 0) == Errc::ok);
  CHECK(outcome<Header>(
            [](Header& h) {
              h.minor = 7;
              h.reserved[9] = std::byte{1};
            },
            0) == Errc::ok);
}

TEST_CASE("well-sealed tables with a wrong extent are refused") {
  using wire::Extent;
  struct Case {
    const char* what;
    Errc code;
    std::function<void(Extent&)> change;
  };
  const Case cases[] = {
      {"unknown codec", Errc::unsupported, [](Extent& e) { e.codec = 1; }},
      {"flags", Errc::corrupt, [](Extent& e) { e.flags = 0x8000; }},
      {"other layer", Errc::corrupt, [](Extent& e) { ++e.layer; }},
      {"layer outside", Errc::corrupt, [](Extent& e) { e.layer = kMost32; }},
      {"other side", Errc::corrupt, [](Extent& e) { e.side ^= 1; }},
      {"third side", Errc::corrupt, [](Extent& e) { e.side = 2; }},
      {"in the header", Errc::corrupt, [](Extent& e) { e.offset = 0; }},
      {"over its neighbour", Errc::corrupt, [](Extent& e) { e.offset -= 4096; }},
      {"not aligned", Errc::corrupt, [](Extent& e) { e.offset += 512; }},
      {"outside", Errc::corrupt, [](Extent& e) { e.offset = kMost64 - 4095; }},
      {"of no bytes", Errc::corrupt, [](Extent& e) { e.stored_bytes = 0; }},
      {"into its neighbour", Errc::corrupt, [](Extent& e) { e.stored_bytes += 4096; }},
      {"offset + bytes overflow", Errc::corrupt, [](Extent& e) { e.stored_bytes = kMost64; }},
      {"decodes to nothing", Errc::corrupt, [](Extent& e) { e.raw_bytes = 0; }},
      {"decodes to everything", Errc::corrupt, [](Extent& e) { e.raw_bytes = kMost64; }},
  };
  for (std::size_t i = 0; i < 8; ++i) {
    for (const Case& one : cases) {
      INFO("extent " << i << ": " << one.what);
      CHECK(outcome<Extent>(one.change, 4096 + 32 * i) == one.code);
    }
  }
}

TEST_CASE("well-sealed tables with swapped or doubled extents are refused") {
  using Two = std::array<wire::Extent, 2>;
  CHECK(outcome<Two>([](Two& e) { std::swap(e[0], e[1]); }, 4096) == Errc::corrupt);
  CHECK(outcome<Two>([](Two& e) { e[1] = e[0]; }, 4096) == Errc::corrupt);
}

TEST_CASE("well-sealed tables with other tokens or bytes behind them are refused") {
  const auto geometry = sample::make(1).geometry();
  using Byte = std::uint8_t;
  CHECK(outcome<Byte>([](Byte& b) { b ^= 1; }, geometry.tokens_offset()) == Errc::mismatch);
  CHECK(outcome<Byte>([](Byte& b) { b = 1; }, geometry.tables_end()) == Errc::corrupt);
  CHECK(outcome<Byte>([](Byte& b) { b = 1; }, geometry.head_bytes() - 1) == Errc::corrupt);
  CHECK(outcome<Byte>([](Byte& b) { b ^= 1; }, geometry.digests_offset()) == Errc::corrupt);
}

TEST_CASE("a well-sealed footer of another object is refused") {
  using wire::Footer;
  const auto at = sample::make(1).geometry().payload_end();
  CHECK(outcome<Footer>([](Footer& f) { f.magic = wire::kHeaderMagic; }, at) == Errc::corrupt);
  CHECK(outcome<Footer>([](Footer& f) { f.key[3] ^= std::byte{1}; }, at) == Errc::corrupt);
  CHECK(outcome<Footer>([](Footer& f) { f.object_bytes += 4096; }, at) == Errc::corrupt);
  CHECK(outcome<Footer>([](Footer& f) { f.reserved[4039] = std::byte{1}; }, at) == Errc::corrupt);

  auto chunk = sample::make(1);
  auto footer = std::span(chunk.object).last(4096);
  footer[48] ^= std::byte{1};  // the header's digest
  const std::uint32_t crc = crc32c(ConstBytes(footer).first(wire::kSealed));
  std::memcpy(footer.data() + wire::kSealed, &crc, sizeof crc);
  CHECK(sample::check(chunk.object, chunk.identity).code() == Errc::corrupt);
}

}  // namespace
