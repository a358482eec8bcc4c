// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_transfer_runs.hpp"

#include <algorithm>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {
namespace {

constexpr std::int32_t kFirstPage[] = {0};

/// The largest of 1, 2, 4, 8, 16 that divides it; of 0: 16.
std::uint32_t width_of(std::uint64_t bits) {
  bits |= 16;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

/// Makes groups of planes, one after the other.
class Planner {
 public:
  Planner(const Slice& slice, bool insert, std::size_t most_row)
      : tokens_(slice.tokens), insert_(insert), most_row_(most_row) {}

  /// Errors:  see groups_of()
  Status add(const PlaneAt& plane, std::byte* near, std::size_t bytes) {
    const std::size_t wanted = plane.token_bytes() * (plane.state ? 1 : tokens_.size());
    if (near == nullptr || bytes != wanted) {
      return refuse(
          "the view has " + std::to_string(near != nullptr ? bytes : 0) + " bytes of " +
          plane.name() + "; " +
          (plane.state ? "a state has " : std::to_string(tokens_.size()) + " tokens are ") +
          std::to_string(wanted));
    }
    auto recipe = std::find_if(recipes_.begin(), recipes_.end(),
                               [&](const Recipe& known) { return alike(known.plane, plane); });
    if (recipe == recipes_.end()) {
      CAKE_TRY(add_recipe(plane));
      recipe = recipes_.end() - 1;
    }
    auto* const pool = static_cast<std::byte*>(plane.pool.base);
    for (const Strip& strip : recipe->strips) {
      Group& group = groups_[strip.group];
      group.near.push_back(near + strip.near);
      group.pools.push_back(pool + strip.pool);
    }
    return {};
  }

  std::vector<Group> take() {
    for (Group& group : groups_) {
      const RunShape& s = group.shape;
      std::uint64_t bits = s.row_bytes | static_cast<std::uint64_t>(s.page_stride);
      if (s.page_tokens > 1) bits |= static_cast<std::uint64_t>(s.token_stride);
      if (s.heads > 1) bits |= static_cast<std::uint64_t>(s.head_stride);
      for (const std::byte* pool : group.pools) bits |= reinterpret_cast<std::uintptr_t>(pool);
      group.width = width_of(bits);
    }
    return std::move(groups_);
  }

 private:
  /// A run of a plane: offsets from the plane's bytes in the view, and from its pool.
  struct Strip {
    std::uint32_t group = 0;
    std::size_t near = 0;
    std::int64_t pool = 0;
  };
  /// How planes like this one are cut into runs.
  struct Recipe {
    PlaneAt plane;
    std::vector<Strip> strips;
  };

  static bool alike(const PlaneAt& a, const PlaneAt& b) {
    return a.rows == b.rows && a.row_bytes == b.row_bytes && a.order == b.order &&
           a.state == b.state && a.window == b.window && a.pool.page == b.pool.page &&
           a.pool.token == b.pool.token && a.pool.row == b.pool.row &&
           a.table.page_tokens == b.table.page_tokens && a.table.n_pages == b.table.n_pages &&
           a.table.pages.data() == b.table.pages.data() &&
           a.table.pages.size() == b.table.pages.size();
  }

  Status add_recipe(const PlaneAt& plane) {
    const auto stretches = stretches_of(plane, tokens_, insert_);
    if (!stretches) return stretches.error();
    recipes_.push_back({plane, {}});
    first_group_ = static_cast<std::uint32_t>(groups_.size());
    const std::size_t all = plane.state ? 1 : tokens_.size();
    for (const Stretch& stretch : *stretches) {
      RunShape shape = shape_of(plane, stretch);
      if (plane.order == KvOrder::nhd || stretch.tokens == all) {
        add_run(shape, stretch.first * plane.token_bytes(), 0);
        continue;
      }
      shape.heads = 1;  // tokens of other stretches lie between the rows
      for (std::uint32_t r = 0; r < plane.rows; ++r) {
        add_run(shape, (r * all + stretch.first) * plane.row_bytes, r * plane.pool.row);
      }
    }
    return {};
  }

  /// As one run if its rows are such as the kernel moves well.
  void add_run(RunShape shape, std::size_t near, std::int64_t pool) {
    const bool tokens_apart = shape.order == KvOrder::nhd || shape.tokens == 1;
    if (shape.row_bytes % 16 != 0 && shape.heads > 1 && tokens_apart &&
        shape.head_stride == shape.row_bytes) {
      shape.row_bytes *= shape.heads;  // rows of a token side by side: one row
      shape.heads = 1;
      shape.head_stride = 0;
    }
    if (shape.row_bytes <= most_row_) return add_strip(shape, near, pool);
    RunShape part = shape_of_long_row(shape.row_bytes);
    for (std::uint32_t x = 0; x < shape.rows(); ++x) {
      const std::uint32_t t = shape.order == KvOrder::nhd ? x / shape.heads : x % shape.tokens;
      const std::uint32_t head = shape.order == KvOrder::nhd ? x % shape.heads : x / shape.tokens;
      const std::uint32_t slot = (t + shape.page_offset) % shape.page_tokens;
      const std::int64_t page = shape.table[(t + shape.page_offset) / shape.page_tokens];
      add_strip(
          part, near + std::size_t{x} * shape.row_bytes,
          pool + page * shape.page_stride + slot * shape.token_stride + head * shape.head_stride);
    }
  }

  /// One long row as a token of many rows that lie side by side.
  RunShape shape_of_long_row(std::uint32_t bytes) const {
    const std::uint32_t width = width_of(bytes);
    const std::uint32_t vectors = bytes / width;
    auto part = static_cast<std::uint32_t>(std::min<std::size_t>(most_row_ / width, vectors));
    while (vectors % part != 0) --part;
    RunShape shape;
    shape.heads = vectors / part;
    shape.row_bytes = part * width;
    shape.tokens = 1;
    shape.page_tokens = 1;
    shape.head_stride = shape.row_bytes;
    shape.table = kFirstPage;
    return shape;
  }

  void add_strip(const RunShape& shape, std::size_t near, std::int64_t pool) {
    std::uint32_t group = first_group_;
    while (group < groups_.size() && !(groups_[group].shape == shape)) ++group;
    if (group == groups_.size()) groups_.push_back({shape, 16, {}, {}});
    recipes_.back().strips.push_back({group, near, pool});
  }

  TokenRange tokens_;
  bool insert_;
  std::size_t most_row_;
  std::vector<Recipe> recipes_;
  std::vector<Group> groups_;
  std::uint32_t first_group_ = 0;  // of the newest recipe
};

template <class Byte>
Status add_plane(Planner& planner, const PlaneAt& plane, const BasicKvView<Byte>& view) {
  const std::span<Byte> run = view.plane(plane.layer, plane.index);
  // Read only where it was const.
  return planner.add(plane, const_cast<std::byte*>(run.data()), run.size());
}

template <class Byte>
Status no_more_planes(const BasicKvView<Byte>& view, std::uint32_t layer, std::size_t planes,
                      const char* remedy) {
  if (view.plane(layer, static_cast<std::uint32_t>(planes)).empty()) return {};
  return refuse("the view has a plane " + std::to_string(planes) + " of layer " +
                std::to_string(layer) + ", and the pages have none; " + remedy);
}

template <class Byte>
Status add_all(Planner& planner, const PagedKv& kv, const Slice& slice,
               const BasicKvView<Byte>& view) {
  const auto shape = shape_of(kv, slice);
  if (!shape) return shape.error();
  if (slice.tokens.empty() || slice.layers.empty()) return {};
  CAKE_TRY(check_plane(plane_at(kv, slice.layers.begin, 0)));
  for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
    CAKE_TRY(add_plane(planner, plane_at(kv, l, 0), view));
    CAKE_TRY(add_plane(planner, plane_at(kv, l, 1), view));
    CAKE_TRY(no_more_planes(view, l, 2, "describe them by PagedPlanes instead of PagedKv"));
  }
  return {};
}

template <class Byte>
Status add_all(Planner& planner, const PagedPlanes& kv, const Slice& slice,
               const BasicKvView<Byte>& view) {
  CAKE_TRY(check_shape(kv));
  CAKE_TRY(check_layers(slice, kv.layout.n_layers));
  if (slice.tokens.begin > slice.tokens.end) {
    return refuse("tokens [" + std::to_string(slice.tokens.begin) + ", " +
                  std::to_string(slice.tokens.end) + ")");
  }
  if (slice.tokens.empty()) return {};
  std::size_t first = 0;
  for (std::uint32_t l = 0; l < slice.layers.end; ++l) {
    const std::size_t planes = kv.layout.kind(l).planes.size();
    for (std::uint32_t i = 0; l >= slice.layers.begin && i < planes; ++i) {
      const PlaneAt plane = plane_at(kv, l, i, first);
      CAKE_TRY(check_plane(plane));
      CAKE_TRY(add_plane(planner, plane, view));
    }
    if (l >= slice.layers.begin) {
      CAKE_TRY(no_more_planes(view, l, planes, "was it made for another layout?"));
    }
    first += planes;
  }
  return {};
}

/// Whether runs are equally far from each other when every `step`th is taken.
bool even(const std::vector<std::byte*>& near, std::size_t step) {
  for (std::size_t i = step; i < near.size(); ++i) {
    if (near[i] - near[i - step] != near[step] - near[0]) return false;
  }
  return true;
}

}  // namespace

template <class Pages, class Byte>
Result<std::vector<Group>> groups_of(const Pages& kv, const Slice& slice,
                                     const BasicKvView<Byte>& view, std::size_t most_row) {
  Planner planner(slice, std::is_const_v<Byte>, std::min(most_row, kMostRowBytes));
  CAKE_TRY(add_all(planner, kv, slice, view));
  return planner.take();
}

template Result<std::vector<Group>> groups_of(const PagedKv&, const Slice&, const KvView&,
                                              std::size_t);
template Result<std::vector<Group>> groups_of(const PagedKv&, const Slice&, const MutableKvView&,
                                              std::size_t);
template Result<std::vector<Group>> groups_of(const PagedPlanes&, const Slice&, const KvView&,
                                              std::size_t);
template Result<std::vector<Group>> groups_of(const PagedPlanes&, const Slice&,
                                              const MutableKvView&, std::size_t);

std::vector<Group> evenly_spaced(const Group& group) {
  constexpr std::size_t kMostPlanes = 8;  // of one shape in a layer
  const std::vector<std::byte*>& near = group.near;
  std::size_t step = 1;
  while (step <= kMostPlanes && !even(near, step)) ++step;
  std::vector<Group> groups;
  const auto add = [&](std::size_t i, bool begins) {
    if (begins) groups.push_back({group.shape, group.width, {}, {}});
    groups.back().near.push_back(near[i]);
    groups.back().pools.push_back(group.pools[i]);
  };
  if (step <= kMostPlanes) {  // planes of one shape come in turn
    for (std::size_t first = 0; first < std::min(step, near.size()); ++first) {
      for (std::size_t i = first; i < near.size(); i += step) add(i, i == first);
    }
    return groups;
  }
  for (std::size_t i = 0; i < near.size(); ++i) {
    const bool begins =
        i == 0 || (groups.back().size() > 1 && near[i] - near[i - 1] != groups.back().stride());
    add(i, begins);
  }
  return groups;
}

bool aligned_outside(const Group& group) {
  return reinterpret_cast<std::uintptr_t>(group.near.front()) % group.width == 0 &&
         group.stride() % static_cast<std::int64_t>(group.width) == 0;
}

}  // namespace cake::inline CAKE_ABI::cuda::transfer
