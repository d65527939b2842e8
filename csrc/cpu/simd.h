// Sixteen floats at a time in portable vector code, compiled for several CPUs and chosen when the library loads.
// All sums are of fixed blocks in a fixed order: results do not depend on the number of threads.
#pragma once
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#define DMGAN_INLINE __attribute__((always_inline)) inline
#define DMGAN_INLINED __attribute__((always_inline))  // after a lambda's parameters
#define DMGAN_UNROLL _Pragma("GCC unroll 16")
// A function with DMGAN_CLONES exists for SSE2, AVX2 and AVX-512; what it calls must be DMGAN_INLINE to follow it.
#if defined(__x86_64__) && defined(__linux__)
#define DMGAN_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4"), noinline))
#else
#define DMGAN_CLONES __attribute__((noinline))
#endif

namespace dmgan {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;

constexpr int64_t kLanes = 16;
typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));

// True where 32 registers of 16 floats exist; narrower CPUs hold fewer accumulators.
inline bool wide_registers() {
#if defined(__x86_64__)
  static const bool wide = __builtin_cpu_supports("avx512f");
  return wide;
#else
  return false;
#endif
}

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// In inner loops let a product take the scalar itself: it is then broadcast as it is loaded, without this addition.
DMGAN_INLINE Vec splat(float x) { return Vec{} + x; }

template <class To, class From>
DMGAN_INLINE To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &x, sizeof(to));
  return to;
}

DMGAN_INLINE Vec load(const float* p) {
  Vec x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

DMGAN_INLINE Vec load(const BFloat16* p) {
  typedef uint16_t Raw __attribute__((vector_size(kLanes * 2)));
  Raw raw;
  std::memcpy(&raw, p, sizeof(raw));
  return bits<Vec>(__builtin_convertvector(raw, IntVec) << 16);
}

DMGAN_INLINE Vec load(const Half* p) {
  Vec x;
  for (int64_t i = 0; i < kLanes; ++i) x[i] = static_cast<float>(p[i]);
  return x;
}

DMGAN_INLINE void store(float* p, Vec x) { std::memcpy(p, &x, sizeof(x)); }

DMGAN_INLINE void store(BFloat16* p, Vec x) {  // round to nearest even; NaN stays NaN
  typedef uint16_t Raw __attribute__((vector_size(kLanes * 2)));
  const IntVec raw = bits<IntVec>(x);
  const IntVec rounded = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
  const IntVec result = x == x ? rounded : IntVec{} + 0x7fc0;
  const Raw narrow = __builtin_convertvector(result, Raw);
  std::memcpy(p, &narrow, sizeof(narrow));
}

DMGAN_INLINE void store(Half* p, Vec x) {
  for (int64_t i = 0; i < kLanes; ++i) p[i] = static_cast<Half>(x[i]);
}

// The first `n` elements `step` apart, zeros after them.
template <class S>
DMGAN_INLINE Vec load_some(const S* p, int64_t n, int64_t step = 1) {
  if (n >= kLanes && step == 1) return load(p);
  alignas(64) float x[kLanes] = {};
  for (int64_t i = 0; i < (n < kLanes ? n : kLanes); ++i) x[i] = static_cast<float>(p[i * step]);
  return load(x);
}

template <class S>
DMGAN_INLINE void store_some(S* p, Vec x, int64_t n, int64_t step = 1) {
  if (n >= kLanes && step == 1) return store(p, x);
  alignas(64) float values[kLanes];
  store(values, x);
  for (int64_t i = 0; i < (n < kLanes ? n : kLanes); ++i) p[i * step] = static_cast<S>(values[i]);
}

DMGAN_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

DMGAN_INLINE float sum(Vec x) {
  typedef float Half8 __attribute__((vector_size(32)));
  typedef float Half4 __attribute__((vector_size(16)));
  const Half8 eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  const Half4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// The first or the second halves of each kLength lanes of a, then of b.
template <int kLength, bool kSecond, int... kLane>
DMGAN_INLINE Vec halves(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  constexpr int kHalf = kLength / 2, kEach = static_cast<int>(kLanes) / 2;
  return __builtin_shufflevector(a, b,
                                 (kLane / kEach * static_cast<int>(kLanes) + kLane % kEach / kHalf * kLength +
                                  kLane % kHalf + (kSecond ? kHalf : 0))...);
}

// Lane i: the sum of x[i]'s lanes; kCount is a power of two, lanes beyond it are partial sums.
template <int kCount, int kLength = static_cast<int>(kLanes)>
DMGAN_INLINE Vec sums_of(const Vec* x) {
  using Lanes = std::make_integer_sequence<int, static_cast<int>(kLanes)>;
  if constexpr (kLength == 1) {
    return x[0];
  } else {
    constexpr int kPairs = kCount > 1 ? kCount / 2 : 1;
    Vec pairs[kPairs];
    DMGAN_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Vec a = x[2 * i], b = kCount > 1 ? x[2 * i + 1] : a;
      pairs[i] = halves<kLength, false>(a, b, Lanes{}) + halves<kLength, true>(a, b, Lanes{});
    }
    return sums_of<kPairs, kLength / 2>(pairs);
  }
}

// e^x within 2 ulp; 0 below -87.3, where floats become denormal. x must not exceed 88.
DMGAN_INLINE Vec exp(Vec x) {
  const Vec kept = max(x, splat(-87.3f));
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = (kept * 1.44269504f + magic) - magic;
  const Vec r = (kept - n * 0.693359375f) + n * 2.12194440e-4f;  // minus n * ln 2, in two parts
  Vec p = splat(1.9875691500e-4f);  // minimax polynomial of e^r on |r| <= ln 2 / 2 (Cephes)
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Vec scaled = bits<Vec>(bits<IntVec>(p) + (__builtin_convertvector(n, IntVec) << 23));
  return x < -87.3f ? Vec{} : scaled;
}

// log x of normal positive floats within 2 ulp; -inf for 0.
DMGAN_INLINE Vec log(Vec x) {
  const IntVec raw = bits<IntVec>(x);
  const IntVec high = (raw & 0x7fffff) > 0x3504f3 ? IntVec{} + 1 : IntVec{};  // mantissa above sqrt 2: halve it
  const Vec exponent = __builtin_convertvector((raw >> 23) - 127 + high, Vec);
  const Vec m = bits<Vec>((raw & 0x7fffff) | ((IntVec{} + 127 - high) << 23)) - 1.0f;
  Vec p = splat(7.0376836292e-2f);  // minimax polynomial of log(1 + m) (Cephes)
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const Vec square = m * m;
  const Vec low = p * m * square - 2.12194440e-4f * exponent - 0.5f * square;
  return x > 0.0f ? m + low + 0.693359375f * exponent : splat(-std::numeric_limits<float>::infinity());
}

DMGAN_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-max(x, splat(-87.0f)))); }

// Scratch of at least `floats` floats, kept by the thread: fresh pages would cost more than the kernels.
inline float* scratch(int64_t floats) {
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<float[], Free> memory;
  thread_local int64_t size = 0;
  if (size < floats) {
    memory.reset();
    memory.reset(static_cast<float*>(::operator new[](floats * sizeof(float), std::align_val_t{64})));
    size = floats;
  }
  return memory.get();
}

}  // namespace dmgan

// Runs the statements with `S` as the element type of `tensor`.
#define DMGAN_FLOAT_TYPES(tensor, ...)                                                  \
  switch ((tensor).scalar_type()) {                                                     \
    case torch::headeronly::ScalarType::Float: {                                        \
      using S = float;                                                                  \
      __VA_ARGS__;                                                                      \
      break;                                                                            \
    }                                                                                   \
    case torch::headeronly::ScalarType::BFloat16: {                                     \
      using S = dmgan::BFloat16;                                                        \
      __VA_ARGS__;                                                                      \
      break;                                                                            \
    }                                                                                   \
    case torch::headeronly::ScalarType::Half: {                                         \
      using S = dmgan::Half;                                                            \
      __VA_ARGS__;                                                                      \
      break;                                                                            \
    }                                                                                   \
    default:                                                                            \
      STD_TORCH_CHECK(false, "float32, bfloat16 or float16 expected");                  \
  }
