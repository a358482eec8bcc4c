// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The part of the CUDA runtime that transfers use, on the CPU, as unkind as it is allowed to be:
// work enqueued in a stream is done as late as somebody has to wait for it, streams take turns at
// random, memory outside of allocations is never touched unpunished, and sources that may be read
// early sometimes are. Device memory is host memory that is registered as such.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "src/cuda/kv_transfer/kv_transfer_kernels.hpp"
#include "src/cuda/runtime/kernel_image.hpp"

namespace {

[[noreturn]] void broken(const char* rule) {
  std::fprintf(stderr, "fake CUDA: %s\n", rule);
  std::abort();
}

struct EventState {
  std::uint64_t recorded = 0;
  std::uint64_t passed = 0;
};
struct Op {
  std::function<void()> work;
  std::shared_ptr<EventState> waits_for;  // with `number` passed
  std::uint64_t number = 0;
};
struct Queue {
  std::deque<Op> ops;
  bool runnable() const {
    return !ops.empty() &&
           (!ops.front().waits_for || ops.front().waits_for->passed >= ops.front().number);
  }
};
struct Range {
  std::uintptr_t end;
  cudaMemoryType type;
  void* block;
};

struct Device {
  std::mutex mutex;
  std::vector<Queue*> queues;
  std::map<std::uintptr_t, Range> memory;
  std::uint64_t random = 88172645463325252ull;

  std::uint64_t next() {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random >> 20;
  }
  /// Runs one operation of one stream; false: nothing can run.
  bool step() {
    const std::size_t n = queues.size();
    const std::size_t first = n != 0 ? next() % n : 0;
    for (std::size_t i = 0; i < n; ++i) {
      Queue& queue = *queues[(first + i) % n];
      if (!queue.runnable()) continue;
      const Op op = std::move(queue.ops.front());
      queue.ops.pop_front();
      if (op.work) op.work();
      return true;
    }
    return false;
  }
  void run_until(const std::function<bool()>& done) {
    while (!done()) {
      if (!step()) broken("a wait that nothing will end");
    }
  }
  void some() {
    for (std::uint64_t i = next() % 3; i > 0; --i) (void)step();
  }
  const Range* at(const void* p) const {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    auto found = memory.upper_bound(address);
    if (found == memory.begin()) return nullptr;
    --found;
    return address < found->second.end ? &found->second : nullptr;
  }
  void check(const void* p, std::size_t bytes, const char* rule) const {
    const Range* range = at(p);
    if (range == nullptr || reinterpret_cast<std::uintptr_t>(p) + bytes > range->end) broken(rule);
  }
};
Device& device() {
  static Device one;
  return one;
}
thread_local cudaError_t last_error = cudaSuccess;

Queue& queue_of(cudaStream_t stream) {
  if (stream == nullptr) broken("the default stream is used");
  return *reinterpret_cast<Queue*>(stream);
}
std::shared_ptr<EventState>& state_of(cudaEvent_t event) {
  return *reinterpret_cast<std::shared_ptr<EventState>*>(event);
}

cudaError_t allocate(void** out, std::size_t bytes, cudaMemoryType type) {
  if (bytes > std::size_t{1} << 34) return last_error = cudaErrorMemoryAllocation;
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  void* const block = std::aligned_alloc(4096, (bytes + 1024 + 4095) / 4096 * 4096);
  *out = static_cast<std::byte*>(block) + 512;  // no more aligned than the runtime promises
  const auto address = reinterpret_cast<std::uintptr_t>(*out);
  d.memory[address] = {address + bytes, type, block};
  return cudaSuccess;
}
cudaError_t deallocate(void* p) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  d.run_until([&] {  // frees wait for the device
    for (const Queue* q : d.queues) {
      if (!q->ops.empty()) return false;
    }
    return true;
  });
  const auto found = d.memory.find(reinterpret_cast<std::uintptr_t>(p));
  if (found == d.memory.end()) broken("a free of what was never allocated");
  std::free(found->second.block);
  d.memory.erase(found);
  return cudaSuccess;
}

void enqueue_copy(Device& d, Queue& queue, void* to, const void* from, std::size_t bytes,
                  bool may_read_early) {
  if (bytes == 0) broken("a copy of no bytes");
  if (bytes > std::size_t{16} << 20) broken("a copy of more than 16 MiB");
  d.check(to, bytes, "a copy to memory that is not pinned or of the device");
  d.check(from, bytes, "a copy from memory that is not pinned or of the device");
  if (may_read_early && d.at(from)->type != cudaMemoryTypeHost) {
    broken("a source on the device may be read out of order");
  }
  if (may_read_early && d.next() % 2 == 0) {
    auto early = std::make_shared<std::vector<std::byte>>(
        static_cast<const std::byte*>(from), static_cast<const std::byte*>(from) + bytes);
    queue.ops.push_back({[=] { std::memcpy(to, early->data(), bytes); }, nullptr, 0});
  } else {
    queue.ops.push_back({[=] { std::memcpy(to, from, bytes); }, nullptr, 0});
  }
}

}  // namespace

namespace cake::inline CAKE_ABI::cuda {
cudaError_t probe_kernel_image() { return cudaSuccess; }

cudaError_t transfer::move_rows(const MoveArgs& args, unsigned width, bool into_pages,
                                unsigned blocks, cudaStream_t stream) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  if (blocks == 0 || args.n_rows == 0) broken("a launch without threads");
  if (width == 0 || width > 16 || (width & (width - 1)) != 0) broken("no such kernel");
  queue_of(stream).ops.push_back(
      {[args, width, into_pages, &d] {
         for (std::uint32_t x = 0; x < args.n_rows; ++x) {
           const Place place = place_of(args, x);
           std::byte* const near = args.near + place.near;
           std::byte* const page = args.pools[place.run] + place.pool;
           if ((reinterpret_cast<std::uintptr_t>(near) | reinterpret_cast<std::uintptr_t>(page) |
                args.row_bytes) %
                   width !=
               0) {
             broken("a kernel's rows are not aligned to what it moves at once");
           }
           d.check(near, args.row_bytes, "a kernel leaves the transfer memory");
           d.check(page, args.row_bytes, "a kernel leaves the pools");
           std::memcpy(into_pages ? page : near, into_pages ? near : page, args.row_bytes);
         }
       },
       nullptr, 0});
  return cudaSuccess;
}
}  // namespace cake::inline CAKE_ABI::cuda

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) {
  return ordinal == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void**, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult*) {
  return cudaErrorNotSupported;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 9;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "an error of the fake"; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  return allocate(p, bytes, cudaMemoryTypeDevice);
}
cudaError_t cudaFree(void* p) { return deallocate(p); }
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  return allocate(p, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaFreeHost(void* p) { return deallocate(p); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  const Range* range = d.at(p);
  *out = {};
  out->type = range == nullptr ? cudaMemoryTypeUnregistered : range->type;
  out->device = range == nullptr ? -2 : 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0;
  *highest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  if (flags != cudaStreamNonBlocking || priority > 0 || priority < -5) broken("odd stream");
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  d.queues.push_back(new Queue);
  *stream = reinterpret_cast<cudaStream_t>(d.queues.back());
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  d.run_until([&] { return queue_of(stream).ops.empty(); });
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  (void)cudaStreamSynchronize(stream);
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  std::erase(d.queues, &queue_of(stream));
  delete &queue_of(stream);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  while (d.step()) {
  }
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(
      new std::shared_ptr<EventState>(std::make_shared<EventState>()));
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &state_of(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  const auto state = state_of(event);
  const std::uint64_t number = ++state->recorded;
  queue_of(stream).ops.push_back({[state, number] { state->passed = number; }, nullptr, 0});
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  const auto state = state_of(event);
  queue_of(stream).ops.push_back({nullptr, state, state->recorded});
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  const EventState& state = *state_of(event);
  if (state.passed < state.recorded) d.some();
  if (state.passed >= state.recorded) return cudaSuccess;
  return last_error = cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  const EventState& state = *state_of(event);
  d.run_until([&] { return state.passed >= state.recorded; });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  enqueue_copy(d, queue_of(stream), to, from, bytes, false);
  return cudaSuccess;
}
cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const std::size_t* bytes,
                                 std::size_t count, cudaMemcpyAttributes* attributes,
                                 std::size_t* first, std::size_t n, cudaStream_t stream) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  if (count == 0 || n != 1 || first[0] != 0) return cudaErrorInvalidValue;
  if (attributes->srcAccessOrder != cudaMemcpySrcAccessOrderAny &&
      attributes->srcAccessOrder != cudaMemcpySrcAccessOrderStream) {
    return cudaErrorInvalidValue;
  }
  std::size_t all = 0;
  for (std::size_t i = 0; i < count; ++i) {
    enqueue_copy(d, queue_of(stream), to[i], from[i], bytes[i],
                 attributes->srcAccessOrder == cudaMemcpySrcAccessOrderAny);
    all += bytes[i];
  }
  if (all > std::size_t{16} << 20) broken("a batch of more than 16 MiB");
  return cudaSuccess;
}

}  // extern "C"
