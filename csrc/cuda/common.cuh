// What every kernel shares. A file that includes this one compiles with nvcc and, unchanged, with g++ on simt/simt.h.
//
// Conventions: global memory is read and written through load() and store(), in the tensor's type outside and float
// inside; shared memory is dynamic and taken from a SharedArena; kernels are started by launch(); sums run over fixed
// parts in a fixed order, so there are no atomics.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>
#else
#include "../simt/simt.h"
#endif

namespace dmgan {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ------------------------------------------------------------------------------------------------- global memory
#ifdef __CUDACC__

template <class S>
__device__ __forceinline__ S load_as_is(const S* address) {
  return *address;
}

template <class S>
__device__ __forceinline__ float load(const S* address) {
  return static_cast<float>(*address);
}

// Zero where not inside.
template <class S>
__device__ __forceinline__ S load_if(bool inside, const S* address) {
  return inside ? *address : S(0.0f);
}

template <class S>
__device__ __forceinline__ void store(S* address, float value) {
  *address = static_cast<S>(value);
}

#else

template <class S>
S load_as_is(const S* address, simt::Site site = simt::Site::current()) {
  simt::probe.record(false, address, sizeof(S), site);
  return *address;
}

template <class S>
float load(const S* address, simt::Site site = simt::Site::current()) {
  return static_cast<float>(load_as_is(address, site));
}

template <class S>
S load_if(bool inside, const S* address, simt::Site site = simt::Site::current()) {
  simt::probe.record(false, address, inside ? sizeof(S) : 0, site);  // a lane left out takes part in the request
  return inside ? *address : S(0.0f);
}

template <class S>
void store(S* address, float value, simt::Site site = simt::Site::current()) {
  simt::probe.record(true, address, sizeof(S), site);
  *address = static_cast<S>(value);
}

#endif

constexpr int kPackBytes = 16;  // of the widest load or copy
template <class S>
constexpr int kPackSize = kPackBytes / static_cast<int>(sizeof(S));  // elements

// What one instruction moves.
template <class S, int kCount>
struct alignas(kCount * sizeof(S)) Packed {
  S elements[kCount];
};

// Feature maps [B, C, H, W] seen as [B, C, N], N = H * W, with any strides, in elements.
template <class S>
struct FeatureMap {
  S* data;
  int64_t sample, channel, pixel;

  __host__ __device__ bool channels_last() const { return channel < pixel; }
  __host__ __device__ S* at(int64_t b, int64_t c, int64_t n) const {
    return data + b * sample + c * channel + n * pixel;
  }
};

// ------------------------------------------------------------------------------------------------- shared memory
constexpr size_t kSharedAlignment = 32;  // bytes: what a tile for tensor cores must start at

// Bytes which an array of `count` takes in an arena; a launch asks for the sum over its arrays.
template <class T>
__host__ __device__ constexpr size_t shared_bytes(size_t count) {
  return (count * sizeof(T) + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
}

// Hands out the block's shared memory, array after array. On the CPU each array is a block of its own, so an overrun
// into a neighbour is caught.
class SharedArena {
 public:
  template <class T>
  __device__ __forceinline__ T* take(size_t count) {
#ifdef __CUDACC__
    extern __shared__ __align__(kSharedAlignment) unsigned char memory[];
    T* array = reinterpret_cast<T*>(memory + used_);
#else
    T* array = static_cast<T*>(simt::shared_memory.array(index_++, count * sizeof(T), used_));
#endif
    used_ += shared_bytes<T>(count);
    return array;
  }

 private:
  size_t used_ = 0;
#ifndef __CUDACC__
  size_t index_ = 0;
#endif
};

// Starts to copy a pack from global to shared memory, or makes it zeros; it is there after wait_for_copies().
template <class S>
__device__ __forceinline__ void copy_async_if(bool inside, S* to, const S* from) {
#ifndef __CUDACC__
  simt::probe.record(false, from, inside ? kPackBytes : 0, simt::Site::current());
#endif
  if (inside) {
    __pipeline_memcpy_async(to, from, kPackBytes);
  } else {
    *reinterpret_cast<Packed<S, kPackSize<S>>*>(to) = {};
  }
}

// For all copies that this thread has started.
__device__ __forceinline__ void wait_for_copies() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

// ---------------------------------------------------------------------------------------------------------- warps
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) value += __shfl_xor_sync(kAllLanes, value, bits);
  return value;
}

// ---------------------------------------------------------------------------------------------------- arithmetic
template <class T>
__host__ __device__ constexpr T divide_up(T value, T by) {
  return (value + by - 1) / by;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }  // NaN stays; fmaxf would drop it

// ----------------------------------------------------------------------------------------------------------- host
// As the size of a grid: its first axis is the only one here, and by far the longest that GPUs have.
inline unsigned grid_of(int64_t blocks) {
  constexpr int64_t kMost = 0x7fffffff;
  if (blocks > kMost) {
    throw std::runtime_error("a kernel needs " + std::to_string(blocks) + " blocks, a grid has at most " +
                             std::to_string(kMost) + "; another backend can run this");
  }
  return static_cast<unsigned>(blocks);
}

#ifdef __CUDACC__

using Stream = cudaStream_t;

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Bytes of shared memory which one block may use on the current device.
inline size_t shared_limit() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

// Starts `kernel` on `blocks * threads` threads; no blocks, no start.
template <class... P>
void launch(void (*kernel)(P...), int64_t blocks, int threads, size_t shared, Stream stream,
            std::type_identity_t<P>... arguments) {
  constexpr size_t kUnasked = 48 * 1024;  // a block has this much without asking
  if (blocks == 0) return;
  if (shared > kUnasked) {
    if (shared > shared_limit()) {
      throw std::runtime_error("a kernel needs " + std::to_string(shared) + " bytes of shared memory, the device has " +
                               std::to_string(shared_limit()) + "; another backend can run this");
    }
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "cudaFuncSetAttribute");
  }
  check(cudaGetLastError(), "an error from before this kernel");  // else it would be taken for this launch's
  kernel<<<grid_of(blocks), threads, shared, stream>>>(arguments...);
  check(cudaGetLastError(), "kernel launch");
}

#else

using Stream = void*;  // kernels run at once

inline size_t shared_limit() { return simt::kSharedLimit; }

template <class... P>
void launch(void (*kernel)(P...), int64_t blocks, int threads, size_t shared, Stream,
            std::type_identity_t<P>... arguments) {
  if (blocks == 0) return;
  simt::launch(grid_of(blocks), static_cast<unsigned>(threads), shared, [&] { kernel(arguments...); });
}

#endif

}  // namespace dmgan
