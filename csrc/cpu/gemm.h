// Small matrix products inside the kernels: a few dozen rows, accumulated in registers.
#pragma once
#include "simd.h"

namespace dmgan {

// A matrix of scalars read one at a time: element (row, depth) is data[row * row_step + depth * depth_step].
struct Scalars {
  const float* data;
  int64_t row_step, depth_step;
};

template <int kRows, int kVecs, bool kAdd>
DMGAN_INLINE void multiply_block(int64_t depth, Scalars a, const float* b, int64_t b_step, float* c, int64_t c_step) {
  Vec sums[kRows][kVecs];
  DMGAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    DMGAN_UNROLL
    for (int v = 0; v < kVecs; ++v) sums[r][v] = Vec{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec row[kVecs];
    DMGAN_UNROLL
    for (int v = 0; v < kVecs; ++v) row[v] = load(b + k * b_step + v * kLanes);
    DMGAN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec scalar = splat(a.data[r * a.row_step + k * a.depth_step]);
      DMGAN_UNROLL
      for (int v = 0; v < kVecs; ++v) sums[r][v] += scalar * row[v];
    }
  }
  DMGAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    DMGAN_UNROLL
    for (int v = 0; v < kVecs; ++v) {  // added at the end: shorter chains of roundings
      float* to = c + r * c_step + v * kLanes;
      store(to, kAdd ? load(to) + sums[r][v] : sums[r][v]);
    }
  }
}

template <int kVecs, bool kAdd>
DMGAN_INLINE void multiply_column(int64_t rows, int64_t depth, Scalars a, const float* b, int64_t b_step, float* c,
                                  int64_t c_step) {
  constexpr int kRows = 6;  // 6 x 4 accumulators + 4 + 1 of 32 registers; 6 x 2 half-wide ones on AVX2
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows, a.data += kRows * a.row_step) {
    multiply_block<kRows, kVecs, kAdd>(depth, a, b, b_step, c + r * c_step, c_step);
  }
  for (; r + 4 <= rows; r += 4, a.data += 4 * a.row_step) {
    multiply_block<4, kVecs, kAdd>(depth, a, b, b_step, c + r * c_step, c_step);
  }
  for (; r + 2 <= rows; r += 2, a.data += 2 * a.row_step) {
    multiply_block<2, kVecs, kAdd>(depth, a, b, b_step, c + r * c_step, c_step);
  }
  if (r < rows) multiply_block<1, kVecs, kAdd>(depth, a, b, b_step, c + r * c_step, c_step);
}

// c [rows, columns] = a [rows, depth] b [depth, columns], or += with kAdd; columns: a multiple of kLanes.
template <bool kAdd>
DMGAN_INLINE void multiply(int64_t rows, int64_t columns, int64_t depth, Scalars a, const float* b, int64_t b_step,
                           float* c, int64_t c_step, bool wide) {
  int64_t n = 0;
  for (; wide && n + 4 * kLanes <= columns; n += 4 * kLanes) {
    multiply_column<4, kAdd>(rows, depth, a, b + n, b_step, c + n, c_step);
  }
  for (; wide && n + 2 * kLanes <= columns; n += 2 * kLanes) {
    multiply_column<2, kAdd>(rows, depth, a, b + n, b_step, c + n, c_step);
  }
  for (; n < columns; n += kLanes) multiply_column<1, kAdd>(rows, depth, a, b + n, b_step, c + n, c_step);
}

DMGAN_INLINE float dot(const float* a, const float* b, int64_t n) {
  Vec total = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total += load(a + i) * load(b + i);
  return sum(total + load_some(a + i, n - i) * load_some(b + i, n - i));
}

template <int kRows, int kColumns>
DMGAN_INLINE void dot_block(int64_t tiles, int64_t lanes, const float* a, int64_t a_tile, const float* b,
                            int64_t b_tile, float* c, int64_t c_step) {
  Vec sums[kRows][kColumns] = {};
  for (int64_t tile = 0; tile < tiles; ++tile, a += a_tile, b += b_tile) {
    for (int64_t k = 0; k < lanes; k += kLanes) {
      Vec column[kColumns];
      DMGAN_UNROLL
      for (int n = 0; n < kColumns; ++n) column[n] = load(b + n * lanes + k);
      DMGAN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Vec row = load(a + r * lanes + k);
        DMGAN_UNROLL
        for (int n = 0; n < kColumns; ++n) sums[r][n] += row * column[n];
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kColumns; ++n) c[r * c_step + n] = sum(sums[r][n]);
  }
}

template <int kRows, int kColumns>
DMGAN_INLINE void dot_rows(int64_t columns, int64_t tiles, int64_t lanes, const float* a, int64_t a_tile,
                           const float* b, int64_t b_tile, float* c, int64_t c_step) {
  int64_t n = 0;
  for (; n + kColumns <= columns; n += kColumns) {
    dot_block<kRows, kColumns>(tiles, lanes, a, a_tile, b + n * lanes, b_tile, c + n, c_step);
  }
  for (; n < columns; ++n) dot_block<kRows, 1>(tiles, lanes, a, a_tile, b + n * lanes, b_tile, c + n, c_step);
}

// c [rows, columns] = sum over tiles of a_tile [rows, lanes] b_tile [columns, lanes]^T; lanes: a multiple of kLanes.
DMGAN_INLINE void dots(int64_t rows, int64_t columns, int64_t tiles, int64_t lanes, const float* a, int64_t a_tile,
                       const float* b, int64_t b_tile, float* c, int64_t c_step, bool wide) {
  int64_t r = 0;
  if (wide) {
    for (; r + 4 <= rows; r += 4) {
      dot_rows<4, 6>(columns, tiles, lanes, a + r * lanes, a_tile, b, b_tile, c + r * c_step, c_step);
    }
  }
  for (; r + 2 <= rows; r += 2) {
    dot_rows<2, 3>(columns, tiles, lanes, a + r * lanes, a_tile, b, b_tile, c + r * c_step, c_step);
  }
  if (r < rows) dot_rows<1, 3>(columns, tiles, lanes, a + r * lanes, a_tile, b, b_tile, c + r * c_step, c_step);
}

}  // namespace dmgan
