// CUDA on the CPU: lets g++ compile a kernel written for nvcc, unchanged, and runs it one block after another.
// Two executors, chosen when compiling:
//   fibers (default)  one fiber per CUDA thread on one core: same order every time, for AddressSanitizer and for Python
//   threads           -DSIMT_THREADS: one OS thread per CUDA thread, so that ThreadSanitizer sees missing barriers
//
// What it finds that a GPU forgives: shared memory read before it is written (each array starts as NaN), overruns of
// each shared array (every one is a heap block of its own), barriers and shuffles that not all threads reach, block
// sizes that leave a warp ragged, more shared memory than was asked for, asynchronous copies that are read before they
// were waited for, and uncoalesced accesses (simt::Traffic). mma.h has the tensor cores.
// What it does not have: atomics (sums must not depend on the order of threads), partial warp masks, textures, and any
// notion of time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#ifdef SIMT_THREADS
#include <pthread.h>

#include <cstdio>
#include <thread>
#else
#include <ucontext.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#endif

// ---------------------------------------------------------------------------------------------- CUDA's vocabulary
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline dim3 blockIdx, blockDim, gridDim;
#ifdef SIMT_THREADS
inline thread_local dim3 threadIdx;
#else
inline dim3 threadIdx;  // set by the scheduler at every switch
#endif

using std::max;
using std::min;

namespace simt {

constexpr unsigned kWarp = 32;
constexpr unsigned kSector = 32;            // bytes: the unit in which a GPU reads and writes its memory
constexpr size_t kSharedLimit = 99 * 1024;  // bytes a block may ask for: the least of all GPUs since sm_80
constexpr size_t kSharedAlignment = 32;     // every shared array starts at a multiple of this
constexpr uint16_t kPoison = 0x7fc0;        // NaN as half and bfloat16 and, twice in a row, as float

using Site = std::source_location;

[[noreturn]] void fail(const std::string& message);  // ends the launch with an error

uint64_t barriers_passed();  // by the block

inline unsigned linear_thread() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }

// ------------------------------------------------------------------------------------------------- shared memory
// The arrays a block has taken, in the order of taking; all threads must take the same ones.
class SharedMemory {
 public:
  void reset(size_t limit) {
    arrays_.clear();
    limit_ = limit;
  }

  // Array number `index` of the block; `before` are the bytes of the arrays before it, as a GPU would lay them out.
  void* array(size_t index, size_t bytes, size_t before) {
    if (before + bytes > limit_) {
      fail("a block takes " + std::to_string(before + bytes) + " bytes of shared memory, the launch gave " +
           std::to_string(limit_));
    }
    void* data = find(index, bytes);
    if (!data) fail("threads disagree on the shared arrays");
    return data;
  }

 private:
  struct Free {
    void operator()(void* data) const { ::operator delete(data, std::align_val_t(kSharedAlignment)); }
  };
  struct Array {
    explicit Array(size_t bytes) : size(bytes), data(::operator new(bytes, std::align_val_t(kSharedAlignment))) {
      auto* halves = static_cast<uint16_t*>(data.get());
      std::fill(halves, halves + bytes / sizeof(uint16_t), kPoison);
    }
    size_t size;
    std::unique_ptr<void, Free> data;  // exactly the size asked for: AddressSanitizer sees one byte too many
  };

  void* find(size_t index, size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (index == arrays_.size()) arrays_.emplace_back(bytes);
    return index < arrays_.size() && arrays_[index].size == bytes ? arrays_[index].data.get() : nullptr;
  }

  std::mutex mutex_;
  std::vector<Array> arrays_;
  size_t limit_ = 0;
};

inline SharedMemory shared_memory;

// ---------------------------------------------------------------------------------------------- coalescing probe
// Counts the sectors which a warp's accesses touch. The n-th access of each lane at one line of source, between two
// barriers of the block, is one request.
struct Traffic {
  uint64_t requests = 0;
  uint64_t sectors = 0;  // touched
  uint64_t ideal = 0;    // that the same bytes would fill
  double ratio() const { return ideal ? static_cast<double>(sectors) / static_cast<double>(ideal) : 1.0; }
};

class Probe {
 public:
  bool enabled = false;

  void record(bool store, const void* address, size_t bytes, const Site& site) {
    if (!enabled) return;
    const unsigned thread = linear_thread();
    auto& line = lines_[{store, site.file_name(), site.line()}];
    if (line.counts.size() <= thread) line.counts.resize(thread + 1);
    auto& [interval, count] = line.counts[thread];
    if (interval != barriers_passed()) count = 0;
    interval = barriers_passed();
    line.requests[{thread / kWarp, interval, count++}].push_back({reinterpret_cast<uintptr_t>(address), bytes});
  }

  // To be called after each block.
  void flush() {
    for (auto& [where, line] : lines_) {
      for (const auto& [request, accesses] : line.requests) {
        std::vector<uintptr_t> bytes, sectors;
        for (const auto& [address, size] : accesses) {
          for (size_t i = 0; i < size; ++i) bytes.push_back(address + i);
        }
        for (const uintptr_t byte : bytes) sectors.push_back(byte / kSector);
        line.traffic.requests += 1;
        line.traffic.ideal += (unique(bytes) + kSector - 1) / kSector;
        line.traffic.sectors += unique(sectors);
      }
      line.requests.clear();
      line.counts.clear();
    }
  }

  // All loads, or all stores, since the last reset.
  Traffic total(bool stores) const {
    Traffic sum;
    for (const auto& [where, line] : lines_) {
      if (std::get<0>(where) != stores) continue;
      sum.requests += line.traffic.requests;
      sum.sectors += line.traffic.sectors;
      sum.ideal += line.traffic.ideal;
    }
    return sum;
  }

  // One text line per line of source.
  std::string report() const {
    std::string text;
    for (const auto& [where, line] : lines_) {
      const auto& [store, file, number] = where;
      text += "  " + file.substr(file.rfind('/') + 1) + ":" + std::to_string(number);
      text += (store ? " stores " : " loads ") + std::to_string(line.traffic.sectors) + " sectors, ideal ";
      text += std::to_string(line.traffic.ideal) + "\n";
    }
    return text;
  }

  void reset() { lines_.clear(); }

 private:
  static size_t unique(std::vector<uintptr_t>& values) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return values.size();
  }

  struct Line {
    std::vector<std::pair<uint64_t, unsigned>> counts;  // per thread: accesses so far between these two barriers
    std::map<std::tuple<unsigned, uint64_t, unsigned>, std::vector<std::pair<uintptr_t, size_t>>> requests;
    Traffic traffic;
  };
  std::map<std::tuple<bool, std::string, unsigned>, Line> lines_;  // by (store, file, line)
};

inline Probe probe;  // fibers only

// ------------------------------------------------------------------------------------------------------ executors
// Lanes exchange words through one of two buffers in turn: a lane that writes the next word but one has passed a
// barrier which every reader of this one had reached.
struct Warp {
  uint32_t word[2][kWarp];
};
inline std::vector<Warp> warps;

// Asynchronous copies of one thread. They happen when they are waited for, no sooner: what reads too early finds what
// was there before.
class Copies {
 public:
  void start(void* to, const void* from, size_t bytes) { open_.push_back({to, from, bytes}); }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }
  // All groups but the last `prior` ones.
  void finish(size_t prior) {
    while (groups_.size() > prior) {
      for (const Copy& copy : groups_.front()) std::memcpy(copy.to, copy.from, copy.bytes);
      groups_.erase(groups_.begin());
    }
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };
  std::vector<Copy> open_;
  std::vector<std::vector<Copy>> groups_;
};
inline std::mutex one_launch;  // the state of a launch is global

// The threads of a block which a GPU would run.
inline unsigned checked_threads(dim3 block, size_t shared_bytes) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads % kWarp != 0 || threads > 1024) {
    throw std::runtime_error("simt: a block must be whole warps, at most 1024 threads, got " + std::to_string(threads));
  }
  if (shared_bytes > kSharedLimit) {
    throw std::runtime_error("simt: a block can have " + std::to_string(kSharedLimit) +
                             " bytes of shared memory, asked for " + std::to_string(shared_bytes));
  }
  return threads;
}

inline dim3 unflatten(unsigned i, dim3 size) { return {i % size.x, i / size.x % size.y, i / size.x / size.y}; }

#ifdef SIMT_THREADS

inline pthread_barrier_t block_barrier;
inline std::vector<pthread_barrier_t> warp_barriers;
inline thread_local unsigned exchanges;  // by this lane so far
inline thread_local Copies thread_copies;

[[noreturn]] inline void fail(const std::string& message) {
  std::fprintf(stderr, "simt: %s\n", message.c_str());
  std::abort();
}

inline uint64_t barriers_passed() { return 0; }
inline void synchronize_block(const Site&) { pthread_barrier_wait(&block_barrier); }
inline void synchronize_warp() { pthread_barrier_wait(&warp_barriers[linear_thread() / kWarp]); }
inline unsigned next_exchange() { return exchanges++; }
inline Copies& copies() { return thread_copies; }

inline void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const std::lock_guard lock(one_launch);
  const unsigned threads = checked_threads(block, shared_bytes);
  gridDim = grid;
  blockDim = block;
  warps.resize(threads / kWarp);
  warp_barriers.resize(threads / kWarp);
  pthread_barrier_init(&block_barrier, nullptr, threads);
  for (auto& barrier : warp_barriers) pthread_barrier_init(&barrier, nullptr, kWarp);
  std::vector<std::thread> pool;
  for (unsigned thread = 0; thread < threads; ++thread) {
    pool.emplace_back([&, thread] {
      threadIdx = unflatten(thread, block);
      for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
        if (thread == 0) {
          blockIdx = unflatten(i, grid);
          shared_memory.reset(shared_bytes);
        }
        pthread_barrier_wait(&block_barrier);
        thread_copies = {};
        kernel();
        pthread_barrier_wait(&block_barrier);
      }
    });
  }
  for (auto& thread : pool) thread.join();
}

#else  // fibers

constexpr size_t kStack = 128 * 1024;

struct Barrier {
  unsigned arrived = 0;
  uint64_t generation = 0;
  unsigned line = 0;  // where the first to arrive stands
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  dim3 index;
  bool done;
  const Barrier* waits;  // for its generation to pass
  uint64_t generation;
  unsigned exchanges;
  Copies copies;
};

inline std::vector<Fiber> fibers;
inline Fiber* current;
inline ucontext_t scheduler;
inline const std::function<void()>* body;
inline Barrier block_barrier;
inline std::vector<Barrier> warp_barriers;
inline std::string error;
inline unsigned seed = 0;  // not 0: the fibers run in an order derived from it

// AddressSanitizer must know of every change of stack.
#ifdef __SANITIZE_ADDRESS__
inline const void* scheduler_stack;
inline size_t scheduler_stack_size;
inline void leave(void** fake, const void* stack, size_t size) { __sanitizer_start_switch_fiber(fake, stack, size); }
inline void enter(void* fake, const void** stack, size_t* size) { __sanitizer_finish_switch_fiber(fake, stack, size); }
#else
inline const void* scheduler_stack;
inline size_t scheduler_stack_size;
inline void leave(void**, const void*, size_t) {}
inline void enter(void*, const void**, size_t*) {}
#endif

inline void back_to_scheduler() {
  void* fake = nullptr;
  leave(&fake, scheduler_stack, scheduler_stack_size);
  swapcontext(&current->context, &scheduler);
  enter(fake, &scheduler_stack, &scheduler_stack_size);
}

inline void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.index;
  void* fake = nullptr;
  leave(&fake, fiber.stack.get(), kStack);
  swapcontext(&scheduler, &fiber.context);
  enter(fake, nullptr, nullptr);
}

inline void fiber_main() {
  enter(nullptr, &scheduler_stack, &scheduler_stack_size);
  (*body)();
  current->done = true;
  leave(nullptr, scheduler_stack, scheduler_stack_size);
  setcontext(&scheduler);
}

[[noreturn]] inline void fail(const std::string& message) {
  if (error.empty()) error = message;
  for (;;) back_to_scheduler();  // which gives the launch up
}

inline void arrive(Barrier& barrier, unsigned expected, unsigned line) {
  if (barrier.arrived == 0) barrier.line = line;
  if (barrier.line != line) {
    fail("divergent barrier: some threads are at line " + std::to_string(barrier.line) + ", others at line " +
         std::to_string(line));
  }
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  current->waits = &barrier;
  current->generation = barrier.generation;
  back_to_scheduler();
}

inline uint64_t barriers_passed() { return block_barrier.generation; }
inline void synchronize_block(const Site& site) {
  arrive(block_barrier, static_cast<unsigned>(fibers.size()), site.line());
}
inline void synchronize_warp() { arrive(warp_barriers[linear_thread() / kWarp], kWarp, 0); }
inline unsigned next_exchange() { return current->exchanges++; }
inline Copies& copies() { return current->copies; }

inline void run_block(const std::vector<unsigned>& order) {
  block_barrier = {};
  std::fill(warp_barriers.begin(), warp_barriers.end(), Barrier{});
  for (unsigned i = 0; i < fibers.size(); ++i) {
    Fiber& fiber = fibers[i];
    fiber.index = unflatten(i, blockDim);
    fiber.done = false;
    fiber.waits = nullptr;
    fiber.exchanges = 0;
    fiber.copies = {};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
  size_t left = fibers.size();
  while (left > 0) {
    bool progress = false;
    for (const unsigned i : order) {
      Fiber& fiber = fibers[i];
      if (fiber.done || (fiber.waits && fiber.waits->generation == fiber.generation)) continue;
      fiber.waits = nullptr;
      progress = true;
      resume(fiber);
      if (!error.empty()) return;
      left -= fiber.done;
    }
    if (!progress) {
      error = "deadlock: not every thread reaches a barrier or a shuffle";
      return;
    }
  }
}

inline void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const std::lock_guard lock(one_launch);
  const unsigned threads = checked_threads(block, shared_bytes);
  gridDim = grid;
  blockDim = block;
  body = &kernel;
  error.clear();
  if (fibers.size() != threads) fibers = std::vector<Fiber>(threads);
  warps.resize(threads / kWarp);
  warp_barriers.resize(threads / kWarp);
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(seed);
  for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
    blockIdx = unflatten(i, grid);
    shared_memory.reset(shared_bytes);
    if (seed) std::shuffle(order.begin(), order.end(), random);
    run_block(order);
    probe.flush();
    if (!error.empty()) throw std::runtime_error("simt: block " + std::to_string(i) + ": " + error);
  }
}

#endif  // executors

// The word of lane `source` of this warp.
template <class T>
T exchange(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  if (mask != ~0u) fail("shuffles take full masks only");
  const unsigned thread = linear_thread();
  auto& buffer = warps[thread / kWarp].word[next_exchange() % 2];
  std::memcpy(&buffer[thread % kWarp], &value, sizeof value);
  synchronize_warp();
  std::memcpy(&value, &buffer[source % kWarp], sizeof value);
  return value;
}

}  // namespace simt

inline void __syncthreads(simt::Site site = simt::Site::current()) { simt::synchronize_block(site); }
inline void __syncwarp() { simt::synchronize_warp(); }

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    simt::fail("an asynchronous copy of " + std::to_string(bytes) + " bytes is misaligned");
  }
  simt::copies().start(to, from, bytes);
}
inline void __pipeline_commit() { simt::copies().commit(); }
inline void __pipeline_wait_prior(size_t prior) { simt::copies().finish(prior); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return simt::exchange(mask, value, simt::linear_thread() % simt::kWarp ^ static_cast<unsigned>(bits));
}
