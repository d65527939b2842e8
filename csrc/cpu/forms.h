// One dimension of a convolution with fewer products (Toom-Cook; Winograd 1980, Lavin & Gray 2016):
//   results = To (Weights w * From window),  * element by element.
// A window of kWindow pixels begins every kStep pixels, one before its tile; kProducts products give kResults pixels.
// A product takes a row of kWeights [kProducts][kTaps] and the value of the same number, or number kValueOf[product]
// where products share values. Where kWeights has some times as many rows, product p sums rows and values p,
// p + kProducts, ... . `spread` is To transposed, for gradients. T: float, or a vector of tiles.
#pragma once
#include <type_traits>

#include "simd.h"

namespace dmgan {

// Multiplications in one dimension: rows of weights.
template <class H>
constexpr int kTerms = static_cast<int>(std::extent_v<decltype(H::kWeights)>);

// The value of a window that a term multiplies.
template <class H>
constexpr int value_of(int term) {
  if constexpr (requires { H::kValueOf; }) {
    return H::kValueOf[term];
  } else {
    return term;
  }
}

// F(2, 3), points 0, 1, -1, infinity: y0 = w0 d0 + w1 d1 + w2 d2, y1 = w0 d1 + w1 d2 + w2 d3.
struct Two {
  static constexpr int kTaps = 3, kValues = 4, kWindow = 4, kStep = 2, kProducts = 4, kResults = 2;
  static constexpr double kWeights[kValues][kTaps] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[1] - d[3];
  }
  template <class T>
  DMGAN_INLINE static void to(const T* m, T* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
  template <class T>
  DMGAN_INLINE static void spread(const T* y, T* m) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = -y[1];
  }
};

// F(4, 3), points 0, a, -a, b, -b, infinity with a = 5/8, b = 3/2: a fifth of the usual points' error (1, 2).
struct Four {
  static constexpr int kTaps = 3, kValues = 6, kWindow = 6, kStep = 4, kProducts = 6, kResults = 4;
  static constexpr float a = 0.625f, b = 1.5f, a2 = a * a, b2 = b * b, a3 = a2 * a, b3 = b2 * b;
  static constexpr double kOfA = 1 / (2.0 * a2 * (a2 - b2)), kOfB = 1 / (2.0 * b2 * (b2 - a2));
  static constexpr double kWeights[kValues][kTaps] = {{1 / (1.0 * a2 * b2), 0, 0},
                                                        {kOfA, a * kOfA, a2 * kOfA},
                                                        {kOfA, -a * kOfA, a2 * kOfA},
                                                        {kOfB, b * kOfB, b2 * kOfB},
                                                        {kOfB, -b * kOfB, b2 * kOfB},
                                                        {0, 0, 1}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    const T even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
    const T even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
    v[0] = (a2 * b2) * d[0] + (d[4] - (a2 + b2) * d[2]);
    v[1] = even_a + a * odd_a;
    v[2] = even_a - a * odd_a;
    v[3] = even_b + b * odd_b;
    v[4] = even_b - b * odd_b;
    v[5] = (a2 * b2) * d[1] + (d[5] - (a2 + b2) * d[3]);
  }
  template <class T>
  DMGAN_INLINE static void to(const T* m, T* y) {
    const T sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = a * difference_a + b * difference_b;
    y[2] = a2 * sum_a + b2 * sum_b;
    y[3] = a3 * difference_a + (b3 * difference_b + m[5]);
  }
  template <class T>
  DMGAN_INLINE static void spread(const T* y, T* m) {
    const T even_a = y[0] + a2 * y[2], odd_a = a * y[1] + a3 * y[3];
    const T even_b = y[0] + b2 * y[2], odd_b = b * y[1] + b3 * y[3];
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
  }
};

// After nearest x2: y0 = w0 d0 + (w1 + w2) d1, y1 = (w0 + w1) d1 + w2 d2.
struct Up {
  static constexpr int kTaps = 3, kValues = 3, kWindow = 3, kStep = 1, kProducts = 3, kResults = 2;
  static constexpr double kWeights[kValues][kTaps] = {{1, 0, 0}, {1, 1, 1}, {0, 0, 1}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    v[0] = d[0] - d[1];
    v[1] = d[1];
    v[2] = d[2] - d[1];
  }
  template <class T>
  DMGAN_INLINE static void to(const T* m, T* y) {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  }
  template <class T>
  DMGAN_INLINE static void spread(const T* y, T* m) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[1];
  }
};

// Its transpose: the window is of the gradient of y from pixel 2i - 1, the result is the sum of all products.
struct UpGradient {
  static constexpr int kTaps = 3, kValues = 3, kWindow = 4, kStep = 2, kProducts = 3, kResults = 1;
  static constexpr double kWeights[kValues][kTaps] = {{1, 0, 0}, {1, 1, 1}, {0, 0, 1}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    v[0] = d[3] - d[1];
    v[1] = d[1] + d[2];
    v[2] = d[0] - d[2];
  }
};

// Two pixels of it: y[2i] and y[2i + 2] by F(2, 2) with weights w0, w1 + w2 and points 0, 1, -1, y[2i + 1] and y[2i + 3]
// with w0 + w1, w2 and points 1, -1, infinity. At 1 both are the same product, at -1 both take the same value.
struct UpPair {
  static constexpr int kTaps = 3, kValues = 4, kWindow = 4, kStep = 2, kProducts = 5, kResults = 4;
  static constexpr int kValueOf[kProducts] = {0, 1, 2, 2, 3};
  static constexpr double kWeights[kProducts][kTaps] = {
      {1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, -0.5}, {0.5, 0.5, -0.5}, {0, 0, 1}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  template <class T>
  DMGAN_INLINE static void to(const T* m, T* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[3];
    y[2] = m[1] - m[2];
    y[3] = m[1] + m[3] + m[4];
  }
  template <class T>
  DMGAN_INLINE static void spread(const T* y, T* m) {
    m[0] = y[0];
    m[1] = (y[0] + y[1]) + (y[2] + y[3]);
    m[2] = y[0] - y[2];
    m[3] = y[3] - y[1];
    m[4] = y[3];
  }
};

// Its transpose, on the gradient of y from pixel 4i - 1: odd pixels take w2, w0 + w1, even ones w1 + w2, w0.
struct UpPairGradient {
  static constexpr int kTaps = 3, kValues = 5, kWindow = 6, kStep = 4, kProducts = 5, kResults = 2;
  static constexpr double kWeights[kProducts][kTaps] = {
      {0, 0, 1}, {0.5, 0.5, 0.5}, {-0.5, -0.5, 0.5}, {-0.5, 0.5, 0.5}, {1, 0, 0}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    v[0] = d[0] - d[4];
    v[1] = (d[1] + d[2]) + (d[3] + d[4]);
    v[2] = d[4] - d[2];
    v[3] = d[1] - d[3];
    v[4] = d[5] - d[1];
  }
  template <class T>
  DMGAN_INLINE static void to(const T* m, T* y) {
    const T difference = m[2] + m[3];
    y[0] = m[0] + m[1] + difference;
    y[1] = m[1] - difference + m[4];
  }
};

// Four taps every second pixel: y0 = w0 d0 + w1 d1 + w2 d2 + w3 d3, y1 = w0 d2 + w1 d3 + w2 d4 + w3 d5, as two
// convolutions of two taps: of d0, d2, d4 with w0, w2, and of d1, d3, d5 with w1, w3.
struct Down {
  static constexpr int kTaps = 4, kValues = 6, kWindow = 6, kStep = 4, kProducts = 3, kResults = 2;
  static constexpr double kWeights[kValues][kTaps] = {{1, 0, 0, 0}, {1, 0, 1, 0}, {0, 0, 1, 0},
                                                      {0, 1, 0, 0}, {0, 1, 0, 1}, {0, 0, 0, 1}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    v[0] = d[0] - d[2];
    v[1] = d[2];
    v[2] = d[4] - d[2];
    v[3] = d[1] - d[3];
    v[4] = d[3];
    v[5] = d[5] - d[3];
  }
  template <class T>
  DMGAN_INLINE static void to(const T* m, T* y) {
    Up::to(m, y);
  }
  template <class T>
  DMGAN_INLINE static void spread(const T* y, T* m) {
    Up::spread(y, m);
  }
};

// Its transpose, on the gradient of y from pixel 2i - 1: even pixels take w3 and w1, odd ones w2 and w0.
struct DownGradient {
  static constexpr int kTaps = 4, kValues = 6, kWindow = 4, kStep = 2, kProducts = 6, kResults = 4;
  static constexpr double kWeights[kValues][kTaps] = {{0, 0, 0, 1}, {0, 1, 0, 1}, {0, 1, 0, 0},
                                                      {0, 0, 1, 0}, {1, 0, 1, 0}, {1, 0, 0, 0}};
  template <class T>
  DMGAN_INLINE static void from(const T* d, T* v) {
    Up::from(d, v);
    Up::from(d + 1, v + 3);
  }
  template <class T>
  DMGAN_INLINE static void to(const T* m, T* y) {
    y[0] = m[0] + m[1];
    y[1] = m[3] + m[4];
    y[2] = m[1] + m[2];
    y[3] = m[4] + m[5];
  }
};

// Both dimensions. kDepth: input channels whose products are added up before the sum is added to the others. Short
// chains of roundings pay for what a transform loses; at 128 channels the error of results is, in units of a direct
// convolution's with AVX-512, 1.7 for Two x Four in steps of 32 channels and 2.6 for Four x Four in steps of 16.
template <class V, class H, int64_t kSteps>
struct Form {
  using Vertical = V;
  using Horizontal = H;
  static constexpr int kTaps = V::kTaps * H::kTaps;
  static constexpr int kProducts = V::kProducts * H::kProducts;
  static constexpr int kDownParts = kTerms<V> / V::kProducts, kAcrossParts = kTerms<H> / H::kProducts;
  static constexpr int kParts = kDownParts * kAcrossParts;  // terms that a product sums
  static constexpr int kDown = V::kValues / kDownParts, kAcross = H::kValues / kAcrossParts, kValues = kDown * kAcross;
  static constexpr int64_t kDepth = kSteps;

  // Which of kValues, each of kParts parts, a product takes.
  static constexpr int values_of(int product) {
    return value_of<V>(product / H::kProducts) * kAcross + value_of<H>(product % H::kProducts);
  }
};

}  // namespace dmgan
