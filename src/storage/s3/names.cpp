// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "names.hpp"

#include <chrono>

#include "reply.hpp"
#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

/// All that names have in them and a query does not take as it is. libcurl signs a %2F as it stands.
std::string encoded(std::string_view name) {
  std::string text;
  for (const char c : name) {
    if (c == '/') {
      text += "%2F";
    } else {
      text += c;
    }
  }
  return text;
}

Error broken(const S3Address& address, const char* what) {
  return {
      Errc::io, 0,
      "list of " + address.shown() + ": " + what + "; look at the server and what lies between"};
}

}  // namespace

Result<std::string> s3_names_query(const S3Address& address, const std::string& from) {
  std::string query = "list-type=2&max-keys=1000&prefix=" + encoded(address.prefix());
  if (from.empty()) return query;
  if (const auto key = ChunkKey::from_hex(from)) {
    return query + "&start-after=" + encoded(address.name_of(*key));
  }
  if (from.size() != 2 || !ChunkKey::from_hex(from + std::string(62, '0'))) {
    return Error{Errc::invalid_argument, 0,
                 "list of " + address.shown() + ": no part of it begins at \"" + from + "\""};
  }
  return query + "&start-after=" + encoded(address.prefix() + from + "/");
}

Result<Listing> s3_names(std::string_view xml, const S3Address& address, const std::string& from) {
  if (xml.find("</ListBucketResult>") == std::string_view::npos) {
    return broken(address, "the answer is no list of names, or is cut short");
  }
  Listing listing;
  std::optional<ChunkKey> last;
  bool ordered = true;  // each name lies behind the one before it, and behind `from`
  std::uint64_t named = 0;
  std::uint64_t others_before = 0;  // the last object
  constexpr std::string_view kOpen = "<Contents>", kClose = "</Contents>";
  for (std::size_t at = xml.find(kOpen); at != std::string_view::npos; at = xml.find(kOpen, at)) {
    const std::size_t end = xml.find(kClose, at);
    if (end == std::string_view::npos) return broken(address, "an entry of the list has no end");
    const std::string_view entry = xml.substr(at, end - at);
    at = end;
    ++named;
    const auto key = address.key_of(s3_element(entry, "Key").value_or(""));
    const auto size = whole_number<std::uint64_t>(s3_element(entry, "Size").value_or(""));
    if (!key || !size) {
      ++listing.others;
      continue;
    }
    ordered = ordered && key->hex() > (last ? last->hex() : from);
    last = key;
    others_before = listing.others;
    listing.objects.push_back(
        {*key, *size, s3_time(s3_element(entry, "LastModified").value_or(""))});
  }
  if (s3_element(xml, "IsTruncated").value_or("false") != "true") return listing;
  if (!last) {
    return broken(
        address, named == 0 ? "the server says that there are more names, and tells none"
                            : "a thousand names in a row are no objects; give cake a prefix of its "
                              "own, or erase them");
  }
  if (!ordered) {
    return broken(address,
                  "there are more names, and those that came are not in order or do not lie behind "
                  "the last one that was known, so that the list would have no end");
  }
  listing.next = last->hex();
  listing.others = others_before;  // the next part names those behind it
  return listing;
}

std::optional<std::int64_t> s3_time(std::string_view text) {
  using namespace std::chrono;
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' || text[10] != 'T') return std::nullopt;
  const auto y = whole_number<int>(text.substr(0, 4));
  const auto m = whole_number<unsigned>(text.substr(5, 2));
  const auto d = whole_number<unsigned>(text.substr(8, 2));
  const auto h = whole_number<unsigned>(text.substr(11, 2));
  const auto min = whole_number<unsigned>(text.substr(14, 2));
  const auto s = whole_number<unsigned>(text.substr(17, 2));
  if (!y || !m || !d || !h || !min || !s) return std::nullopt;
  const year_month_day date{year(*y), month(*m), day(*d)};
  if (!date.ok() || *h > 23 || *min > 59 || *s > 60) return std::nullopt;
  const auto when = sys_days(date) + hours(*h) + minutes(*min) + seconds(*s);
  return sys_seconds(when).time_since_epoch().count();
}

}  // namespace cake::inline CAKE_ABI::detail
