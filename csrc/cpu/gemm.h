// Small matrix products inside the kernels: a few dozen rows, accumulated in registers.
#pragma once
#include <algorithm>

#include "simd.h"

namespace dmgan {

// A matrix of scalars read one at a time: element (row, depth) is data[row * row_step + depth * depth_step].
struct Scalars {
  const float* data;
  int64_t row_step, depth_step;
};

template <int kRows, int kVecs, class Finish>
DMGAN_INLINE void multiply_block(int64_t depth, Scalars a, const float* b, int64_t b_step, int64_t row, int64_t column,
                                 const Finish& finish) {
  Vec sums[kRows][kVecs];
  DMGAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    DMGAN_UNROLL
    for (int v = 0; v < kVecs; ++v) sums[r][v] = Vec{};
  }
  const float* scalars = a.data + row * a.row_step;
  for (int64_t k = 0; k < depth; ++k) {
    Vec of_b[kVecs];
    DMGAN_UNROLL
    for (int v = 0; v < kVecs; ++v) of_b[v] = load(b + k * b_step + column + v * kLanes);
    DMGAN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float scalar = scalars[r * a.row_step + k * a.depth_step];
      DMGAN_UNROLL
      for (int v = 0; v < kVecs; ++v) sums[r][v] += scalar * of_b[v];
    }
  }
  DMGAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    DMGAN_UNROLL
    for (int v = 0; v < kVecs; ++v) finish(row + r, column + v * kLanes, sums[r][v]);
  }
}

// Rows of accumulators beside kVecs vectors of b: with those and a scalar they fill the registers.
template <int kVecs>
constexpr int block_rows() {
#if defined(__FMA__) || defined(__aarch64__)
  constexpr int64_t kOther = 2;  // a scalar, and room for the compiler
#else
  constexpr int64_t kOther = 4;  // products before they are added
#endif
  constexpr int64_t kMost = (kRegisters - kOther - kVecs) / kVecs;
  return static_cast<int>(kMost > 12 ? 12 : kMost);
}

template <int kVecs, class Finish>
DMGAN_INLINE void multiply_column(int64_t rows, int64_t depth, Scalars a, const float* b, int64_t b_step,
                                  int64_t column, const Finish& finish) {
  constexpr int kRows = block_rows<kVecs>();
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) multiply_block<kRows, kVecs>(depth, a, b, b_step, r, column, finish);
  for (; r + 4 <= rows; r += 4) multiply_block<4, kVecs>(depth, a, b, b_step, r, column, finish);
  for (; r + 2 <= rows; r += 2) multiply_block<2, kVecs>(depth, a, b, b_step, r, column, finish);
  if (r < rows) multiply_block<1, kVecs>(depth, a, b, b_step, r, column, finish);
}

// finish(row, column, a vector of sums) for all of a [rows, depth] b [depth, columns]; columns: a multiple of kLanes.
template <class Finish>
DMGAN_INLINE void multiply_into(int64_t rows, int64_t columns, int64_t depth, Scalars a, const float* b, int64_t b_step,
                                const Finish& finish) {
  int64_t n = 0;
  if constexpr (kRegisters == 32) {
    for (; n + 4 * kLanes <= columns; n += 4 * kLanes) multiply_column<4>(rows, depth, a, b, b_step, n, finish);
  }
  for (; n + 2 * kLanes <= columns; n += 2 * kLanes) multiply_column<2>(rows, depth, a, b, b_step, n, finish);
  for (; n < columns; n += kLanes) multiply_column<1>(rows, depth, a, b, b_step, n, finish);
}

// For `finish`: stores sums in c, or adds them to it at the end: shorter chains of roundings.
template <bool kAdd>
DMGAN_INLINE auto sums_to(float* c, int64_t c_step) {
  return [=](int64_t row, int64_t column, Vec sum) DMGAN_INLINED {
    float* to = c + row * c_step + column;
    store(to, kAdd ? load(to) + sum : sum);
  };
}

// c [rows, columns] = a b, or += with kAdd.
template <bool kAdd>
DMGAN_INLINE void multiply(int64_t rows, int64_t columns, int64_t depth, Scalars a, const float* b, int64_t b_step,
                           float* c, int64_t c_step) {
  multiply_into(rows, columns, depth, a, b, b_step, sums_to<kAdd>(c, c_step));
}

// How a matrix [depth, columns] lies in panels of columns, one after the other, each [depth, kWide] and the last one
// narrower: a block of products reads it in order.
struct Panels {
  static constexpr int kVecs = kRegisters == 32 ? 4 : 2;
  static constexpr int64_t kWide = kVecs * kLanes;
  int64_t depth, columns;  // columns: a multiple of kLanes
  int64_t width(int64_t column) const { return std::min(kWide, columns - column / kWide * kWide); }
  int64_t at(int64_t k, int64_t column) const {
    return column / kWide * kWide * depth + k * width(column) + column % kWide;
  }
};

// c [rows, width] = or += a b, where b [depth, width] is a panel.
template <bool kAdd>
DMGAN_INLINE void multiply_panel(int64_t rows, int64_t width, int64_t depth, Scalars a, const float* b, float* c,
                                 int64_t c_step) {
  if (width == Panels::kWide) {
    multiply_column<Panels::kVecs>(rows, depth, a, b, width, 0, sums_to<kAdd>(c, c_step));
  } else {
    multiply_into(rows, width, depth, a, b, width, sums_to<kAdd>(c, c_step));
  }
}

// c [rows, columns] = or += a b with b in panels.
template <bool kAdd>
DMGAN_INLINE void multiply_by_panels(int64_t rows, const Panels& b_lies, Scalars a, const float* b, float* c,
                                  int64_t c_step) {
  for (int64_t n = 0; n < b_lies.columns; n += Panels::kWide) {
    multiply_panel<kAdd>(rows, b_lies.width(n), b_lies.depth, a, b + b_lies.at(0, n), c + n, c_step);
  }
}

DMGAN_INLINE float dot(const float* a, const float* b, int64_t n) {
  Vec total = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total += load(a + i) * load(b + i);
  return sum(total + load_some(a + i, n - i) * load_some(b + i, n - i));
}

// The sum of each vector's lanes, one after the other.
template <int kCount>
DMGAN_INLINE void store_sums(const Vec* sums, float* totals) {
  constexpr int kNow = kCount >= kWidth ? kWidth : kCount >= 8 ? 8 : kCount >= 4 ? 4 : kCount >= 2 ? 2 : 1;
  store_some(totals, sums_of<kNow>(sums), kNow);
  if constexpr (kCount > kNow) store_sums<kCount - kNow>(sums + kNow, totals + kNow);
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
  alignas(64) float totals[kRows * kColumns];
  store_sums<kRows * kColumns>(&sums[0][0], totals);
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kColumns; ++n) c[r * c_step + n] = totals[r * kColumns + n];
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
                       const float* b, int64_t b_tile, float* c, int64_t c_step) {
#if defined(__FMA__)
  constexpr int kRows = 4;
#else
  constexpr int kRows = kRegisters == 32 ? 4 : 3;  // products before they are added take registers too
#endif
  constexpr int kColumns = kRegisters == 32 ? 6 : 3;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    dot_rows<kRows, kColumns>(columns, tiles, lanes, a + r * lanes, a_tile, b, b_tile, c + r * c_step, c_step);
  }
  for (; r < rows; ++r) dot_rows<1, 3>(columns, tiles, lanes, a + r * lanes, a_tile, b, b_tile, c + r * c_step, c_step);
}

}  // namespace dmgan
