// One register of floats at a time in portable vector code. Each level of CPU (SSE2, AVX2, AVX-512, NEON) compiles all
// of it with flags of its own, into a library of its own: dmgan_fast/native.py loads the best one.
// All sums are of fixed blocks in a fixed order: results do not depend on the number of threads.
#pragma once
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#define DMGAN_INLINE __attribute__((always_inline)) inline
#define DMGAN_INLINED __attribute__((always_inline))  // after a lambda's parameters
#define DMGAN_UNROLL _Pragma("GCC unroll 16")
// A hot function with a symbol of its own, whose machine code tests look at; what it calls is DMGAN_INLINE.
#define DMGAN_HOT __attribute__((noinline))

namespace dmgan {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;

// A vector is as wide as a register: GCC keeps wider ones in memory. kRegisters: how many of them there are.
#if defined(__AVX512F__)
constexpr int64_t kLanes = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int64_t kLanes = 4, kRegisters = 32;
#else
constexpr int64_t kLanes = 4, kRegisters = 16;
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));

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
#if defined(__AVX512F__)  // GCC 12 widens, and below narrows, by halves that meet in memory
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return bits<Vec>(bits<IntVec>(_mm512_cvtepu16_epi32(raw)) << 16);
#else
  typedef uint16_t Raw __attribute__((vector_size(kLanes * 2)));
  Raw raw;
  std::memcpy(&raw, p, sizeof(raw));
  return bits<Vec>(__builtin_convertvector(raw, IntVec) << 16);
#endif
}

DMGAN_INLINE Vec load(const Half* p) {
#if defined(__AVX512F__)
  return bits<Vec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return bits<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Vec x;
  for (int64_t i = 0; i < kLanes; ++i) x[i] = static_cast<float>(p[i]);
  return x;
#endif
}

DMGAN_INLINE void store(float* p, Vec x) { std::memcpy(p, &x, sizeof(x)); }

DMGAN_INLINE void store(BFloat16* p, Vec x) {  // round to nearest even; NaN stays NaN
  const IntVec raw = bits<IntVec>(x);
  const IntVec rounded = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
  const IntVec result = x == x ? rounded : IntVec{} + 0x7fc0;
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(bits<__m512i>(result)));
#else
  typedef uint16_t Raw __attribute__((vector_size(kLanes * 2)));
  const Raw narrow = __builtin_convertvector(result, Raw);
  std::memcpy(p, &narrow, sizeof(narrow));
#endif
}

DMGAN_INLINE void store(Half* p, Vec x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(bits<__m512>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(bits<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int64_t i = 0; i < kLanes; ++i) p[i] = static_cast<Half>(x[i]);
#endif
}

// Stores past the caches, where the level can: for results that no cache would hold until they are read. `p` lies at a
// multiple of a vector's bytes. end_stream() before another thread may read them.
DMGAN_INLINE void stream(float* p, Vec x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, bits<__m512>(x));
#elif defined(__F16C__)
  _mm256_stream_ps(p, bits<__m256>(x));
#else
  store(p, x);
#endif
}

DMGAN_INLINE void end_stream() {
#if defined(__F16C__)
  _mm_sfence();
#endif
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

// NaN where b is: of two arguments b is the one that may be a user's.
DMGAN_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Lanes of a (0 ... kLanes - 1) and b (from kLanes on).
template <int... kLane>
DMGAN_INLINE Vec shuffle(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, kLane...);
#else
  return __builtin_shuffle(a, b, IntVec{kLane...});
#endif
}

// Map a lane's number to the lane that it comes from: chosen<Map>(a, b)[i] = (a, b)[Map::from(i)].
template <class Map, int... kLane>
DMGAN_INLINE Vec chosen(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  return shuffle(a, b, std::integer_sequence<int, Map::from(kLane)...>{});
}
template <class Map>
DMGAN_INLINE Vec chosen(Vec a, Vec b) {
  return chosen<Map>(a, b, std::make_integer_sequence<int, static_cast<int>(kLanes)>{});
}

constexpr int kWidth = static_cast<int>(kLanes);

// The first or the second halves of each kLength lanes of a, then of b.
template <int kLength, bool kSecond>
struct Halves {
  static constexpr int from(int lane) {
    const int each = kWidth / 2, half = kLength / 2;
    return lane / each * kWidth + lane % each / half * kLength + lane % half + (kSecond ? half : 0);
  }
};

// Lane i: the sum of x[i]'s lanes; kCount is a power of two, lanes beyond it are partial sums.
template <int kCount, int kLength = kWidth>
DMGAN_INLINE Vec sums_of(const Vec* x) {
  if constexpr (kLength == 1) {
    return x[0];
  } else {
    constexpr int kPairs = kCount > 1 ? kCount / 2 : 1;
    Vec pairs[kPairs];
    DMGAN_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Vec a = x[2 * i], b = kCount > 1 ? x[2 * i + 1] : a;
      pairs[i] = chosen<Halves<kLength, false>>(a, b) + chosen<Halves<kLength, true>>(a, b);
    }
    return sums_of<kPairs, kLength / 2>(pairs);
  }
}

DMGAN_INLINE float sum(Vec x) {
#if defined(__AVX2__) && !defined(__clang__) && __GNUC__ < 12
  // The same sums in the same order: GCC 11 would keep the shuffles' indices on the stack.
#if defined(__AVX512F__)
  const __m512 all = bits<__m512>(x);
  const __m256 eight = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
#else
  const __m256 eight = bits<__m256>(x);
#endif
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  return (four[0] + four[2]) + (four[1] + four[3]);
#else
  return sums_of<1>(&x)[0];
#endif
}

// e^x within 2 ulp; 0 below -87.3, where floats become denormal; NaN for NaN. x must not exceed 88.
DMGAN_INLINE Vec exp(Vec x) {
  const Vec kept = max(splat(-87.3f), x);
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

// log x of normal positive floats within 2 ulp; -inf for 0, NaN for NaN.
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
  const Vec special = x == 0.0f ? splat(-std::numeric_limits<float>::infinity()) : x;
  return x > 0.0f ? m + low + 0.693359375f * exponent : special;
}

DMGAN_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-max(splat(-87.0f), x))); }

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
