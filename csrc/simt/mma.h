// CUDA's <mma.h> on the CPU: a warp's matrix products on tensor cores, namespace nvcuda::wmma, as far as the kernels
// use it (16 x 16 x 16, factors of sixteen bits, float32 sums). Fragments are spread over the warp's lanes, as on a
// GPU; which lane has which element CUDA does not say. It finds lanes that do not take part in a product, lanes that
// disagree on a matrix, addresses that CUDA does not take and, as loads and stores are each lane's own, missing
// barriers.
#pragma once

#include "simt.h"

namespace nvcuda::wmma {

struct row_major;
struct col_major;
struct matrix_a;
struct matrix_b;
struct accumulator;
enum layout_t { mem_row_major, mem_col_major };

constexpr unsigned kSide = 16, kElements = kSide * kSide;

// Element i of a lane is element lane + i * kWarp of the matrix, counted row by row.
template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static_assert(M == kSide && N == kSide && K == kSide);
  static constexpr unsigned num_elements = kElements / simt::kWarp;
  T x[num_elements];
  const void* from = nullptr;  // where it was loaded
};

}  // namespace nvcuda::wmma

namespace simt {

// What a warp multiplies, in two buffers in turn (see simt::Warp).
struct Factors {
  float a[nvcuda::wmma::kElements], b[nvcuda::wmma::kElements];
  const void *a_from[kWarp], *b_from[kWarp];
};
inline Factors factors[1024 / kWarp][2];

// CUDA's rules for the address of a matrix in memory.
template <class T>
void check_matrix(const T* address, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(address) % 32 != 0) fail("a matrix for wmma must start at a multiple of 32 bytes");
  if (stride * sizeof(T) % 16 != 0) fail("the stride of a matrix for wmma must be a multiple of 16 bytes");
}

inline size_t element_at(unsigned element, unsigned stride, bool row_major) {
  const size_t row = element / nvcuda::wmma::kSide, column = element % nvcuda::wmma::kSide;
  return row_major ? row * stride + column : column * stride + row;
}

}  // namespace simt

namespace nvcuda::wmma {

template <class Fragment, class T>
void fill_fragment(Fragment& fragment, const T& value) {
  std::fill(std::begin(fragment.x), std::end(fragment.x), value);
}

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& to, const T* address, unsigned stride) {
  simt::check_matrix(address, stride);
  to.from = address;
  for (unsigned i = 0; i < to.num_elements; ++i) {
    const unsigned element = simt::linear_thread() % simt::kWarp + i * simt::kWarp;
    to.x[i] = address[simt::element_at(element, stride, std::is_same_v<Layout, row_major>)];
  }
}

template <class T>
void store_matrix_sync(T* address, const fragment<accumulator, 16, 16, 16, T>& from, unsigned stride, layout_t layout) {
  simt::check_matrix(address, stride);
  for (unsigned i = 0; i < from.num_elements; ++i) {
    const unsigned element = simt::linear_thread() % simt::kWarp + i * simt::kWarp;
    address[simt::element_at(element, stride, layout == mem_row_major)] = from.x[i];
  }
}

// d = a b + c
template <class T, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d, const fragment<matrix_a, 16, 16, 16, T, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, T, LayoutB>& b, const fragment<accumulator, 16, 16, 16, float>& c) {
  const unsigned lane = simt::linear_thread() % simt::kWarp;
  simt::Factors& all = simt::factors[simt::linear_thread() / simt::kWarp][simt::next_exchange() % 2];
  for (unsigned i = 0; i < a.num_elements; ++i) {
    all.a[lane + i * simt::kWarp] = static_cast<float>(a.x[i]);
    all.b[lane + i * simt::kWarp] = static_cast<float>(b.x[i]);
  }
  all.a_from[lane] = a.from;
  all.b_from[lane] = b.from;
  simt::synchronize_warp();
  if (all.a_from[0] != a.from || all.b_from[0] != b.from) simt::fail("lanes of a warp load a matrix from two places");
  for (unsigned i = 0; i < d.num_elements; ++i) {
    const unsigned row = (lane + i * simt::kWarp) / kSide, column = (lane + i * simt::kWarp) % kSide;
    float sum = c.x[i];
    for (unsigned k = 0; k < kSide; ++k) sum += all.a[row * kSide + k] * all.b[k * kSide + column];
    d.x[i] = sum;
  }
}

}  // namespace nvcuda::wmma
