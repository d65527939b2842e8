// A warp's products of matrix tiles in shared memory, added up in float32: on tensor cores for sixteen-bit elements, by
// exact fused multiply-adds for float32. Both have one interface, so that a kernel is written once.
#pragma once

#include "common.cuh"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
#else
#include "../simt/mma.h"
#endif

namespace dmgan {

// A step multiplies [kTile, depth] by [depth, kTile]; depth is the axis that the sum runs over.
constexpr int kTile = 16;
template <class S>
constexpr int kTileDepth = sizeof(S) == 2 ? 16 : 2;  // with more, factors of floats would not stay in registers

// A factor's memory is dense along depth, or along its other axis: rows of the left factor, columns of the right.
enum class Dense { kDepth, kLines };

// ----------------------------------------------------------------------------------------- sixteen bits: tensor cores
namespace wmma = nvcuda::wmma;

#ifdef __CUDACC__
template <class S>
using TensorCoreElement = std::conditional_t<std::is_same_v<S, c10::Half>, __half, __nv_bfloat16>;

// wmma::load_matrix_sync of bfloat16 from shared memory. nvcc 13 does not find out that such an address is a shared
// one, as it does for float16, and then loads word by word instead of with ldmatrix; here the instruction says so.
template <class Use, bool kRowMajor, class Fragment>
__device__ __forceinline__ void load_shared_bfloat16(Fragment& to, const void* first, int stride) {
  static_assert(sizeof to.x == 4 * sizeof(uint32_t));
  auto* x = reinterpret_cast<uint32_t*>(&to.x);
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(first));
#define DMGAN_WMMA_LOAD(FACTOR, LAYOUT)                                                                         \
  asm volatile("wmma.load." FACTOR ".sync.aligned." LAYOUT ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, [%4], %5;" \
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])                                                 \
               : "r"(address), "r"(stride)                                                                      \
               : "memory")
  if constexpr (std::is_same_v<Use, wmma::matrix_a>) {
    if constexpr (kRowMajor) {
      DMGAN_WMMA_LOAD("a", "row");
    } else {
      DMGAN_WMMA_LOAD("a", "col");
    }
  } else if constexpr (kRowMajor) {
    DMGAN_WMMA_LOAD("b", "row");
  } else {
    DMGAN_WMMA_LOAD("b", "col");
  }
#undef DMGAN_WMMA_LOAD
}
#else
template <class S>
using TensorCoreElement = S;
#endif

template <class Use, class S, bool kRowMajor>
struct TensorCoreFactor {
  wmma::fragment<Use, kTile, kTile, kTileDepth<S>, TensorCoreElement<S>,
                 std::conditional_t<kRowMajor, wmma::row_major, wmma::col_major>>
      fragment;

  // From shared memory. `stride`: from one dense line to the next; a multiple of 8, `first` one of 32 bytes.
  __device__ __forceinline__ void load(const S* first, int stride) {
#ifdef __CUDACC__
    if constexpr (std::is_same_v<S, c10::BFloat16>) {
      return load_shared_bfloat16<Use, kRowMajor>(fragment, first, stride);
    }
#endif
    wmma::load_matrix_sync(fragment, reinterpret_cast<const TensorCoreElement<S>*>(first), stride);
  }
};

template <class S, Dense kDense>
struct LeftTile : TensorCoreFactor<wmma::matrix_a, S, kDense == Dense::kDepth> {};

template <class S, Dense kDense>
struct RightTile : TensorCoreFactor<wmma::matrix_b, S, kDense == Dense::kLines> {};

template <class S>
struct SumTile {
  wmma::fragment<wmma::accumulator, kTile, kTile, kTileDepth<S>, float> fragment;

  __device__ __forceinline__ SumTile() { wmma::fill_fragment(fragment, 0.0f); }

  template <class Left, class Right>
  __device__ __forceinline__ void add(const Left& left, const Right& right) {
    wmma::mma_sync(fragment, left.fragment, right.fragment, fragment);
  }

  // Rows are dense, or columns. `stride`: a multiple of 4; `first` one of 32 bytes.
  __device__ __forceinline__ void store(float* first, int stride, bool dense_rows) const {
    wmma::store_matrix_sync(first, fragment, stride, dense_rows ? wmma::mem_row_major : wmma::mem_col_major);
  }
};

// ------------------------------------------------------------------------------------------------- float32: registers
// Lanes lie in a grid of kLaneRows by kWarp / kLaneRows; each has every kLaneRows-th row and every 8th column.
constexpr int kLaneRows = 4, kLaneColumns = kWarp / kLaneRows;

__device__ __forceinline__ int lane_row() { return threadIdx.x % kLaneRows; }
__device__ __forceinline__ int lane_column() { return threadIdx.x % kWarp / kLaneRows; }

// Every kStep-th line from `line` on.
template <int kStep, Dense kDense>
struct RegisterFactor {
  static constexpr int kLines = kTile / kStep, kDepth = kTileDepth<float>;
  float x[kLines][kDepth];

  __device__ __forceinline__ void load_lines(const float* first, int stride, int line) {
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      if constexpr (kDense == Dense::kDepth) {
        const auto terms = *reinterpret_cast<const Packed<float, kDepth>*>(first + (line + i * kStep) * stride);
#pragma unroll
        for (int k = 0; k < kDepth; ++k) x[i][k] = terms.elements[k];
      } else {
#pragma unroll
        for (int k = 0; k < kDepth; ++k) x[i][k] = first[k * stride + line + i * kStep];
      }
    }
  }
};

template <Dense kDense>
struct LeftTile<float, kDense> : RegisterFactor<kLaneRows, kDense> {
  __device__ __forceinline__ void load(const float* first, int stride) { this->load_lines(first, stride, lane_row()); }
};

template <Dense kDense>
struct RightTile<float, kDense> : RegisterFactor<kLaneColumns, kDense> {
  __device__ __forceinline__ void load(const float* first, int stride) {
    this->load_lines(first, stride, lane_column());
  }
};

template <>
struct SumTile<float> {
  float x[kTile / kLaneRows][kTile / kLaneColumns] = {};

  template <class Left, class Right>
  __device__ __forceinline__ void add(const Left& left, const Right& right) {
#pragma unroll
    for (int k = 0; k < kTileDepth<float>; ++k) {
#pragma unroll
      for (int i = 0; i < left.kLines; ++i) {
#pragma unroll
        for (int j = 0; j < right.kLines; ++j) x[i][j] += left.x[i][k] * right.x[j][k];
      }
    }
  }

  __device__ __forceinline__ void store(float* first, int stride, bool dense_rows) const {
#pragma unroll
    for (int i = 0; i < kTile / kLaneRows; ++i) {
#pragma unroll
      for (int j = 0; j < kTile / kLaneColumns; ++j) {
        const int row = lane_row() + i * kLaneRows, column = lane_column() + j * kLaneColumns;
        first[dense_rows ? row * stride + column : column * stride + row] = x[i][j];
      }
    }
  }
};

}  // namespace dmgan
