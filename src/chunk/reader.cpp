// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/reader.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cake/chunk/digest.hpp"
#include "sealed_copy.hpp"
#include "src/chunk/object_cipher.hpp"
#include "src/core/try.hpp"
#include "wire.hpp"

namespace cake::inline CAKE_ABI {

/// What the blocks of an encrypted object are opened with.
struct detail::SealedBlocks {
  ObjectKey key;
  std::vector<GcmTag> tags;  // one for each digest
};

namespace {

static_assert(kDigestBlock == std::size_t{1} << wire::kBlockLog2);

Error corrupt(const char* what) { return {Errc::corrupt, 0, what}; }
Error mismatch(const char* what) { return {Errc::mismatch, 0, what}; }
Error unsupported(const char* what) { return {Errc::unsupported, 0, what}; }

/// Compares the bytes with themselves, one further on: memcmp takes many at a time.
bool all_zero(std::span<const std::byte> bytes) {
  return bytes.empty() || (bytes[0] == std::byte{0} &&
                           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

template <class T>
T load(ConstBytes bytes, std::uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// The header, if it is undamaged and of a version that this build reads.
Result<wire::Header> load_header(ConstBytes head) {
  if (head.size() < sizeof(wire::Header)) return corrupt("the object is shorter than a header");
  const auto header = load<wire::Header>(head, 0);
  if (header.magic != wire::kHeaderMagic) return corrupt("the object has no chunk header");
  if (header.crc != crc32c(head.first(wire::kSealed))) return corrupt("the header is damaged");
  if (header.major != wire::kMajor) return unsupported("the object is of another major version");
  if ((header.incompatible & ~wire::kKnownIncompatible) != 0) {
    return unsupported("the object uses a feature that this build does not know");
  }
  if (header.digest != wire::kDigestCrc32c || header.block_log2 != wire::kBlockLog2) {
    return unsupported("the object is digested in a way that this build does not know");
  }
  if (header.header_bytes != sizeof header) return corrupt("the header has a wrong length");
  // A newer minor version may have put these bytes to a use that old readers can do without.
  if (header.zero != 0 || (header.minor <= wire::kMinor && !all_zero(header.reserved))) {
    return corrupt("reserved bytes of the header are in use");
  }
  constexpr std::size_t begin = offsetof(wire::Header, key_id);
  constexpr std::size_t size = offsetof(wire::Header, reserved) - begin;
  if (!header.encrypted() && !all_zero(head.subspan(begin, size))) {
    return corrupt("the header of a plain object speaks of encryption");
  }
  return header;
}

Status check_identity(const wire::Header& header, const ChunkIdentity& expected) {
  if (header.key != expected.key.bytes) return mismatch("the object is stored under a wrong key");
  if (header.parent != expected.parent.bytes) return mismatch("the object has another parent");
  if (header.fingerprint != expected.fingerprint.bytes) {
    return mismatch("the object is another model's");
  }
  if (header.tenant != expected.tenant) return mismatch("the object is another tenant's");
  if (header.token_begin != expected.token_begin || header.token_count != expected.tokens.size()) {
    return mismatch("the object covers other positions");
  }
  if (header.n_layers != expected.geometry.layout().n_layers ||
      header.layout != expected.geometry.layout_digest()) {
    return mismatch("the object has another layout");
  }
  return {};
}

/// A plain object in the place of an encrypted one would be somebody's forgery.
Status check_cipher(const wire::Header& header, const ChunkIdentity& expected) {
  if (header.encrypted() == expected.geometry.encrypted()) return {};
  if (header.encrypted()) return unsupported("the object is encrypted, and no keys were given");
  return mismatch("the object is not encrypted, and those of this tenant are");
}

/// Every size and offset has exactly one right value, so nothing is ever computed from a wrong one.
Status check_sizes(const wire::Header& header, std::uint64_t object_size,
                   const ChunkGeometry& geometry) {
  const std::uint32_t held = geometry.held_by(header.object_bytes);
  if (held == 0 || header.held != (held == header.n_layers ? 0 : held)) {
    return corrupt("the header's object size is wrong");
  }
  // Whole, but not the object that was looked up: a save has put one with other layers there.
  if (object_size != header.object_bytes && geometry.held_by(object_size) != 0) {
    return Error{Errc::not_found, 0, "the object was replaced by one that holds other layers"};
  }
  if (object_size != header.object_bytes) return corrupt("the object is truncated or has grown");
  if (header.payload_begin != geometry.head_bytes() ||
      header.payload_bytes != geometry.payload_end(held) - geometry.head_bytes() ||
      header.raw_bytes != geometry.raw_bytes(held)) {
    return corrupt("the header's payload range is wrong");
  }
  if (header.n_extents != geometry.n_extents() || header.n_digests != geometry.n_digests() ||
      header.extents_offset != geometry.extents_offset() ||
      header.digests_offset != geometry.digests_offset() ||
      header.tokens_offset != geometry.tokens_offset() ||
      header.tables_end != geometry.tables_end() ||
      header.tags_offset != (geometry.encrypted() ? geometry.tags_offset() : 0)) {
    return corrupt("the header's table ranges are wrong");
  }
  return {};
}

Status check_extents(ConstBytes head, const ChunkGeometry& geometry, std::uint32_t held) {
  std::uint64_t at = geometry.extents_offset();
  for (std::uint32_t position = 0; position < held; ++position) {
    const std::uint32_t layer = geometry.runs().layer_at(position);
    for (std::uint32_t p = 0; p < geometry.runs().n_planes(layer);
         ++p, at += sizeof(wire::Extent)) {
      const auto extent = load<wire::Extent>(head, at);
      if (extent.codec != wire::kCodecRaw) {
        return unsupported("an extent is coded in a way that this build does not know");
      }
      if (extent.layer != layer || extent.plane != p) {
        return corrupt("the extents are out of order");
      }
      if (extent.flags != 0) return corrupt("reserved bits of an extent are in use");
      const wire::Extent right = wire::extent_of(geometry, layer, p);
      if (extent.offset != right.offset) return corrupt("an extent is not where it belongs");
      if (extent != right) return corrupt("an extent has a wrong size or shape");
    }
  }
  const std::uint64_t digests =
      geometry.digests_offset() +
      std::uint64_t{4} * geometry.first_digest(geometry.runs().first_at(held));
  if (!all_zero(head.subspan(at, geometry.digests_offset() - at)) ||
      !all_zero(head.subspan(digests, geometry.tokens_offset() - digests))) {
    return corrupt("the tables describe layers that are not held");
  }
  return {};
}

Status check_footer(ConstBytes page, const ChunkKey& key, std::uint64_t object_bytes,
                    std::uint32_t header_crc) {
  const auto footer = load<wire::Footer>(page, 0);
  if (footer.magic != wire::kFooterMagic || footer.crc != crc32c(page.first(wire::kSealed))) {
    return corrupt("the footer is damaged");
  }
  if (footer.key != key.bytes || footer.object_bytes != object_bytes ||
      footer.header_crc != header_crc) {
    return corrupt("the footer belongs to another header");
  }
  if (!all_zero(footer.reserved)) return corrupt("reserved bytes of the footer are in use");
  return {};
}

constexpr char kDamagedBlock[] = "a block of KV is damaged";

/// Where a slice's extents lie in what was read, and which they are.
struct PlacedSlice {
  const std::byte* extents = nullptr;
  std::uint32_t begin = 0;  // first extent,
  std::uint32_t end = 0;    // and one past the last
  bool has_footer = false;
  KvView view;
};

Result<PlacedSlice> place_slice(const ChunkGeometry& parsed, std::uint32_t held,
                                const ChunkIdentity& expected, LayerRange layers, ConstBytes bytes,
                                Cipher cipher = Cipher::none) {
  if (!parsed.valid() || parsed != expected.geometry ||
      parsed.chunk_tokens() != expected.tokens.size()) {
    return Error{Errc::invalid_argument, 0, "a slice cannot be verified by these tables"};
  }
  if (parsed.cipher() != cipher) {
    return Error{
        Errc::invalid_argument, 0,
        "a slice of an encrypted object is for open_slice(), others are for verify_slice()"};
  }
  const std::uint32_t n_layers = parsed.layout().n_layers;
  if (layers.empty() || layers.end > held || bytes.size() != parsed.read_range(layers).size()) {
    return Error{Errc::invalid_argument, 0, "a slice was given other bytes than its own"};
  }
  PlacedSlice slice;
  slice.extents = bytes.data() + (layers.begin == 0 ? parsed.head_bytes() : 0);
  slice.begin = parsed.runs().first_at(layers.begin);
  slice.end = parsed.runs().first_at(layers.end);
  slice.has_footer = layers.end == n_layers;
  slice.view = KvView(slice.extents, parsed.runs().layer_at(layers.begin), parsed.shared_runs());
  return slice;
}

/// With the last layer comes the footer.
Status check_end(const PlacedSlice& slice, ConstBytes bytes, const ChunkIdentity& expected,
                 std::uint32_t header_crc) {
  if (!slice.has_footer) return {};
  return check_footer(bytes.last(sizeof(wire::Footer)), expected.key,
                      expected.geometry.object_bytes(), header_crc);
}

/// The digests of a slice's extents as `device` computes them: neighbours of one size in one call.
Status digest_on_device(const PlacedSlice& slice, const ChunkGeometry& geometry,
                        DeviceStaging& device, std::span<std::uint32_t> out) {
  const KvRuns& runs = geometry.runs();
  const auto padded = [&](std::uint32_t e) { return runs.end(e) - runs[e].begin; };
  for (std::uint32_t e = slice.begin, next = e; e < slice.end; e = next) {
    while (next < slice.end && padded(next) == padded(e)) ++next;
    const std::size_t first = geometry.first_digest(e);
    const auto digests = out.subspan(first - geometry.first_digest(slice.begin),
                                     geometry.first_digest(next) - first);
    const std::byte* const at = slice.extents + (runs[e].begin - runs[slice.begin].begin);
    auto status = device.crc32c(at, padded(e), next - e, kDigestBlock, digests);
    if (!status) return status;
  }
  return {};
}

/// Whether this header can be of an object of this size, and its tables lie where they must: before
/// the payload, one behind the other.
Status check_ranges(const wire::Header& header, std::uint64_t object_bytes, const ChunkKey& key) {
  if (header.key != key.bytes) return mismatch("the object is stored under a wrong key");
  if (header.object_bytes != object_bytes) return corrupt("the object is truncated or has grown");
  const std::uint64_t most = object_bytes - sizeof(wire::Footer);
  if (header.payload_begin < sizeof header || header.payload_begin > most ||
      header.payload_begin % ChunkGeometry::kPage != 0 ||
      header.payload_bytes != most - header.payload_begin) {
    return corrupt("the header's payload range is wrong");
  }
  if (header.extents_offset != sizeof header ||
      header.digests_offset !=
          header.extents_offset + sizeof(wire::Extent) * std::uint64_t{header.n_extents} ||
      header.tokens_offset != header.digests_offset + 4 * std::uint64_t{header.n_digests} ||
      header.tables_end != header.tokens_offset + 4 * std::uint64_t{header.token_count} ||
      header.tables_end > header.payload_begin ||
      (header.encrypted() &&
       (header.tags_offset != header.tables_end ||
        header.tags_offset + sizeof(detail::GcmTag) * header.n_digests > header.payload_begin))) {
    return corrupt("the header's table ranges are wrong");
  }
  return {};
}

/// Where a whole object's bytes come from, and where they are checked: in place, or in the copy that
/// is made on the way.
class ObjectBytes {
 public:
  ObjectBytes(ConstBytes object, std::byte* to) : object_(object), to_(to) {}
  /// These bytes, where they are to be checked.
  ConstBytes take(std::uint64_t begin, std::uint64_t bytes) const {
    if (to_ == nullptr) return object_.subspan(begin, bytes);
    std::memcpy(to_ + begin, object_.data() + begin, bytes);
    return {to_ + begin, bytes};
  }
  std::uint64_t size() const { return object_.size(); }

 private:
  ConstBytes object_;
  std::byte* to_;
};

/// Every block of the payload by the tables in `head`: the extents follow each other from the
/// payload's begin to its end, those of layers that are not held are empty.
Status check_blocks(const ObjectBytes& object, const wire::Header& header, ConstBytes head) {
  const std::uint64_t end = header.payload_begin + header.payload_bytes;
  std::uint64_t at = header.payload_begin;
  std::uint32_t digest = 0;
  for (std::uint32_t e = 0; e < header.n_extents && at < end; ++e) {
    const auto extent =
        load<wire::Extent>(head, header.extents_offset + sizeof(wire::Extent) * std::uint64_t{e});
    if (extent.offset != at || extent.stored_bytes == 0 || extent.stored_bytes > end - at) {
      return corrupt("an extent is not where it belongs");
    }
    const std::uint64_t last = at + detail::align_up(extent.stored_bytes);
    if (last > end) return corrupt("an extent has a wrong size or shape");
    for (; at < last; at += std::min<std::uint64_t>(kDigestBlock, last - at), ++digest) {
      if (digest == header.n_digests) return corrupt("the tables have too few digests");
      const ConstBytes block = object.take(at, std::min<std::uint64_t>(kDigestBlock, last - at));
      const std::uint64_t place = header.digests_offset + std::uint64_t{4} * digest;
      if (crc32c(block) != load<std::uint32_t>(head, place)) return corrupt(kDamagedBlock);
    }
  }
  if (at != end) return corrupt("the tables do not describe the whole payload");
  return {};
}

Result<std::uint32_t> seal_of(const ObjectBytes& object, const ChunkKey& key) {
  if (object.size() < sizeof(wire::Header) + sizeof(wire::Footer)) {
    return corrupt("the object is shorter than a header and a footer");
  }
  const auto header = load_header(object.take(0, sizeof(wire::Header)));
  if (!header) return header.error();
  CAKE_TRY(check_ranges(*header, object.size(), key));
  const std::uint64_t tables_bytes = header->payload_begin - sizeof(wire::Header);
  const ConstBytes tables = object.take(sizeof(wire::Header), tables_bytes);
  if (header->tables_crc != crc32c(tables)) return corrupt("the tables are damaged");
  const ConstBytes head(tables.data() - sizeof(wire::Header), header->payload_begin);
  CAKE_TRY(check_blocks(object, *header, head));
  const ConstBytes page = object.take(object.size() - sizeof(wire::Footer), sizeof(wire::Footer));
  CAKE_TRY(check_footer(page, key, header->object_bytes, header->crc));
  return header->crc;
}

constexpr char kOtherTokens[] = "the object holds other tokens";

/// Of an encrypted object whose header and tables are undamaged: that they are authentic, and of the
/// expected tokens.
Result<std::shared_ptr<const detail::SealedBlocks>> open_head(ConstBytes head,
                                                              const wire::Header& header,
                                                              const ChunkIdentity& expected) {
  const ChunkGeometry& geometry = expected.geometry;
  const auto part = [&](std::uint64_t begin, std::uint64_t end) {
    return head.subspan(begin, end - begin);
  };
  try {
    const auto key =
        detail::ObjectKey::derive(*expected.keys, header.key_id, header.random, expected.key);
    if (!key) {
      expected.keys->note_unreadable(expected.key);
      return Error{Errc::not_found, 0,
                   "the object is encrypted with a key that the tenant has not"};
    }
    wire::Header sealed = header;
    sealed.tables_crc = 0;
    sealed.head_tag = {};
    sealed.crc = 0;
    const ConstBytes associated[] = {std::as_bytes(std::span(&sealed, 1)),
                                     part(geometry.extents_offset(), geometry.tokens_offset()),
                                     part(geometry.tags_offset(), geometry.tags_end())};
    std::vector<TokenId> tokens(expected.tokens.size());
    const MutableBytes plain = std::as_writable_bytes(std::span(tokens));
    detail::Gcm gcm(*key, detail::Gcm::Does::decrypt);
    if (!gcm.decrypt(detail::nonce_of_head(), associated,
                     part(geometry.tokens_offset(), geometry.tables_end()), plain.data(),
                     header.head_tag)) {
      return corrupt("header or tables are not what was written with the tenant's key");
    }
    if (!std::equal(tokens.begin(), tokens.end(), expected.tokens.begin())) {
      return mismatch(kOtherTokens);
    }
    auto blocks = std::make_shared<detail::SealedBlocks>(
        detail::SealedBlocks{*key, std::vector<detail::GcmTag>(geometry.n_digests())});
    std::memcpy(blocks->tags.data(), head.data() + geometry.tags_offset(),
                geometry.tags_end() - geometry.tags_offset());
    return std::shared_ptr<const detail::SealedBlocks>(std::move(blocks));
  } catch (const Exception& e) {
    return e.error();
  }
}

/// Why a block cannot be opened: it may be of another writing of the object, whose header or footer then
/// say so, and is no damage.
Error unopened(const PlacedSlice& slice, LayerRange layers, ConstBytes bytes,
               std::uint32_t header_crc) {
  const bool other_head = layers.begin == 0 && load<wire::Header>(bytes, 0).crc != header_crc;
  const bool other_foot =
      slice.has_footer &&
      load<wire::Footer>(bytes.last(sizeof(wire::Footer)), 0).header_crc != header_crc;
  if (!other_head && !other_foot) return corrupt(kDamagedBlock);
  return {Errc::not_found, 0, "the object was written anew while it was read"};
}

bool begins_with(ConstBytes bytes, std::uint64_t offset, const std::array<std::uint8_t, 8>& magic) {
  return bytes.size() - std::min<std::uint64_t>(offset, bytes.size()) >= magic.size() &&
         std::memcmp(bytes.data() + offset, magic.data(), magic.size()) == 0;
}

}  // namespace

Result<std::uint32_t> verify_object(ConstBytes object, const ChunkKey& key) {
  return seal_of({object, nullptr}, key);
}

Result<std::optional<std::uint32_t>> detail::sealed_copy(ConstBytes object, const ChunkKey& key,
                                                         std::byte* to) {
  const std::uint64_t foot = object.size() - std::min(object.size(), sizeof(wire::Footer));
  if (begins_with(object, 0, wire::kHeaderMagic) || begins_with(object, foot, wire::kFooterMagic)) {
    const auto seal = seal_of({object, to}, key);
    if (seal) return std::optional(*seal);
    if (seal.error().code != Errc::unsupported) return seal.error();
  }
  if (to != nullptr) std::memcpy(to, object.data(), object.size());
  return std::optional<std::uint32_t>();
}

Status detail::check_seal(ConstBytes object, const ChunkKey& key, std::uint32_t seal) {
  const auto header = load_header(object);
  if (!header || header->crc != seal || header->key != key.bytes ||
      header->object_bytes != object.size()) {
    return mismatch("a seal is not that of the object that it came with");
  }
  return {};
}

Result<ChunkTables> parse_chunk(ConstBytes head, std::uint64_t object_size,
                                const ChunkIdentity& expected) {
  const ChunkGeometry& geometry = expected.geometry;
  if (!geometry.valid() || expected.tokens.empty()) {
    return Error{Errc::invalid_argument, 0, "no stored chunk has the expected layout"};
  }
  if (geometry.encrypted() && expected.keys == nullptr) {
    return Error{Errc::invalid_argument, 0, "an encrypted chunk was expected, without TenantKeys"};
  }
  const auto header = load_header(head);
  if (!header) return header.error();
  CAKE_TRY(check_identity(*header, expected));
  CAKE_TRY(check_cipher(*header, expected));
  CAKE_TRY(check_sizes(*header, object_size, geometry));
  if (head.size() < geometry.head_bytes()) {
    return Error{Errc::invalid_argument, 0, "less than the head of the object was given"};
  }
  const ConstBytes tables =
      head.subspan(sizeof(wire::Header), geometry.head_bytes() - sizeof(wire::Header));
  if (header->tables_crc != crc32c(tables)) return corrupt("the tables are damaged");
  CAKE_TRY(check_extents(head, geometry, geometry.held_by(header->object_bytes)));
  ChunkTables result;
  if (geometry.encrypted()) {
    auto sealed = open_head(head, *header, expected);
    if (!sealed) return sealed.error();
    result.sealed_ = std::move(*sealed);
  } else if (std::memcmp(head.data() + geometry.tokens_offset(), expected.tokens.data(),
                         expected.tokens.size_bytes()) != 0) {
    return mismatch(kOtherTokens);
  }
  const std::uint64_t end = geometry.tags_end();
  if (!all_zero(head.subspan(end, geometry.head_bytes() - end))) {
    return corrupt("bytes behind the tables are in use");
  }

  result.digests_.resize(geometry.n_digests());
  std::memcpy(result.digests_.data(), head.data() + geometry.digests_offset(),
              4 * geometry.n_digests());
  result.header_crc_ = header->crc;
  result.held_ = geometry.held_by(header->object_bytes);
  result.geometry_ = geometry;
  return result;
}

Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                            LayerRange layers, ConstBytes bytes) {
  const ChunkGeometry& geometry = tables.geometry_;
  const auto slice = place_slice(geometry, tables.held_, expected, layers, bytes);
  if (!slice) return slice.error();
  const KvRuns& runs = geometry.runs();
  const std::byte* run = slice->extents;
  for (std::uint32_t e = slice->begin; e < slice->end; ++e) {
    const std::uint32_t* digest = tables.digests_.data() + geometry.first_digest(e);
    const std::uint64_t padded = runs.end(e) - runs[e].begin;
    for (std::uint64_t at = 0; at < padded; at += kDigestBlock) {
      const std::uint64_t size = std::min<std::uint64_t>(kDigestBlock, padded - at);
      if (crc32c({run + at, size}) != *digest++) return corrupt(kDamagedBlock);
    }
    run += padded;
  }
  if (auto status = check_end(*slice, bytes, expected, tables.header_crc_); !status) {
    return status.error();
  }
  return slice->view;
}

SliceDigests::SliceDigests(const ChunkGeometry& geometry, LayerRange layers, ConstBytes bytes)
    : geometry_(geometry),
      first_(geometry.runs().first_at(layers.begin)),
      end_(geometry.runs().first_at(layers.end)),
      extents_(bytes.data() + (layers.begin == 0 ? geometry.head_bytes() : 0)),
      blocks_(geometry.first_digest(end_) - geometry.first_digest(first_)) {}

void SliceDigests::arrived(ConstBytes part) noexcept {
  const KvRuns& runs = geometry_.runs();
  // Of the extents, in bytes from the first one's begin on.
  const std::uint64_t origin = runs[first_].begin;
  const auto base = reinterpret_cast<std::uintptr_t>(extents_);
  const auto at = reinterpret_cast<std::uintptr_t>(part.data());
  const std::uintptr_t past = at + part.size();
  const std::uint64_t begin = at > base ? at - base : 0;
  const std::uint64_t end =
      past > base ? std::min<std::uint64_t>(past - base, runs[end_].begin - origin) : 0;
  std::uint32_t extent = first_, beyond = end_;
  while (extent < beyond) {  // the first one that ends behind `begin`
    const std::uint32_t middle = extent + (beyond - extent) / 2;
    if (runs.end(middle) - origin > begin) {
      beyond = middle;
    } else {
      extent = middle + 1;
    }
  }
  for (; extent < end_ && runs[extent].begin - origin < end; ++extent) {
    arrived_in(extent, begin, end);
  }
}

void SliceDigests::arrived_in(std::uint32_t extent, std::uint64_t begin,
                              std::uint64_t end) noexcept {
  const KvRuns& runs = geometry_.runs();
  const std::uint64_t origin = runs[first_].begin;
  const std::uint64_t extent_begin = runs[extent].begin - origin;
  const std::uint64_t extent_end = runs.end(extent) - origin;
  const std::uint64_t skipped =
      begin > extent_begin ? (begin - extent_begin) / kDigestBlock : 0;  // blocks
  Block* block =
      blocks_.data() + skipped + geometry_.first_digest(extent) - geometry_.first_digest(first_);
  for (std::uint64_t at = extent_begin + skipped * kDigestBlock; at < std::min(end, extent_end);
       at += kDigestBlock, ++block) {
    const std::uint64_t size = std::min<std::uint64_t>(kDigestBlock, extent_end - at);
    const std::uint64_t came = std::min(end, at + size) - std::max(begin, at);
    // Whoever completes the block sees what the others have brought of it.
    const auto before = block->arrived.fetch_add(static_cast<std::uint32_t>(came));
    if (before + came != size) continue;
    block->digest.store(crc32c({extents_ + at, size}), std::memory_order_relaxed);
    block->digested.store(true, std::memory_order_release);
  }
}

bool SliceDigests::complete() const {
  return std::all_of(blocks_.begin(), blocks_.end(), [](const Block& block) {
    return block.digested.load(std::memory_order_acquire);
  });
}

bool SliceDigests::equal(std::span<const std::uint32_t> digests) const {
  return std::equal(digests.begin(), digests.end(), blocks_.begin(), blocks_.end(),
                    [](std::uint32_t digest, const Block& block) {
                      return block.digested.load(std::memory_order_acquire) &&
                             block.digest.load(std::memory_order_relaxed) == digest;
                    });
}

Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                            LayerRange layers, ConstBytes bytes, const SliceDigests& arrived) {
  const ChunkGeometry& geometry = tables.geometry_;
  const auto slice = place_slice(geometry, tables.held_, expected, layers, bytes);
  if (!slice) return slice.error();
  const std::uint32_t first = geometry.first_digest(slice->begin);
  const std::uint32_t last = geometry.first_digest(slice->end);
  if (!arrived.equal(std::span(tables.digests_).subspan(first, last - first))) {
    return verify_slice(tables, expected, layers, bytes);
  }
  if (auto status = check_end(*slice, bytes, expected, tables.header_crc_); !status) {
    return status.error();
  }
  return slice->view;
}

Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                            LayerRange layers, ConstBytes bytes, DeviceStaging& device) {
  const ChunkGeometry& geometry = tables.geometry_;
  const auto slice = place_slice(geometry, tables.held_, expected, layers, bytes);
  if (!slice) return slice.error();
  const std::uint32_t first = geometry.first_digest(slice->begin);
  std::vector<std::uint32_t> digests(geometry.first_digest(slice->end) - first);
  auto status = digest_on_device(*slice, geometry, device, digests);
  if (!status) return status.error();
  if (!std::equal(digests.begin(), digests.end(), tables.digests_.data() + first)) {
    return corrupt(kDamagedBlock);
  }
  if (slice->has_footer) {
    std::array<std::byte, sizeof(wire::Footer)> page;
    status = device.to_host(page.data(), bytes.data() + bytes.size() - page.size(), page.size());
    if (!status) return status.error();
    status = check_footer(page, expected.key, geometry.object_bytes(), tables.header_crc_);
    if (!status) return status.error();
  }
  return slice->view;
}

Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                            LayerRange layers, ConstBytes bytes, std::uint32_t seal) {
  if (seal != tables.header_crc_) return verify_slice(tables, expected, layers, bytes);
  const auto slice = place_slice(tables.geometry_, tables.held_, expected, layers, bytes);
  if (!slice) return slice.error();
  return slice->view;
}

Result<KvView> open_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                          LayerRange layers, ConstBytes bytes, MutableBytes out) {
  const ChunkGeometry& geometry = tables.geometry_;
  const auto slice =
      place_slice(geometry, tables.held_, expected, layers, bytes, Cipher::aes_256_gcm);
  if (!slice) return slice.error();
  if (out.size() < geometry.payload_bytes(layers)) {
    return Error{Errc::invalid_argument, 0, "a slice is decrypted into less memory than it takes"};
  }
  const KvRuns& runs = geometry.runs();
  try {
    detail::Gcm gcm(tables.sealed_->key, detail::Gcm::Does::decrypt);
    std::uint64_t at = 0;
    for (std::uint32_t e = slice->begin; e < slice->end; ++e) {
      std::uint32_t block = geometry.first_digest(e);
      for (std::uint64_t left = runs.end(e) - runs[e].begin, size = 0; left != 0;
           left -= size, at += size, ++block) {
        size = std::min<std::uint64_t>(kDigestBlock, left);
        if (!gcm.decrypt(detail::nonce_of_block(block), {}, {slice->extents + at, size},
                         out.data() + at, tables.sealed_->tags[block])) {
          return unopened(*slice, layers, bytes, tables.header_crc_);
        }
      }
    }
  } catch (const Exception& e) {
    return e.error();
  }
  if (auto status = check_end(*slice, bytes, expected, tables.header_crc_); !status) {
    return status.error();
  }
  return KvView(out.data(), runs.layer_at(layers.begin), geometry.shared_runs());
}

std::optional<ChunkSummary> peek_chunk(ConstBytes first_page) {
  const auto header = load_header(first_page);
  if (!header) return std::nullopt;
  return ChunkSummary{.key = ChunkKey{header->key},
                      .parent = ChunkKey{header->parent},
                      .token_begin = header->token_begin,
                      .token_count = header->token_count,
                      .object_bytes = header->object_bytes,
                      .fingerprint = {header->fingerprint},
                      .tenant = header->tenant,
                      .n_layers = header->n_layers,
                      .held = header->held == 0 ? header->n_layers : header->held,
                      .layout = header->layout,
                      .cipher = header->encrypted() ? Cipher::aes_256_gcm : Cipher::none,
                      .key_id = header->key_id};
}

}  // namespace cake::inline CAKE_ABI
