// The gradient of the weight of a 3x3 convolution with few results, as an image's three: sums over pixels, directly.
// Transforms of the many inputs would cost more than the products they save.
#pragma once
#include <algorithm>
#include <vector>

#include "tiles.h"

namespace dmgan {

constexpr int64_t kFewResults = 4;  // at most
constexpr int64_t kBandRows = 16;   // rows summed in floats before the sum continues in doubles

// Rows first - 1 ... last of a plane in rows of `step` floats, pixels from kLanes on, zeros around them.
DMGAN_INLINE void pad_band(const float* plane, int64_t height, int64_t width, int64_t first, int64_t last, int64_t step,
                           float* band) {
  std::fill_n(band, (last - first + 2) * step, 0.0f);
  for (int64_t y = std::max<int64_t>(first - 1, 0); y < std::min(last + 1, height); ++y) {
    std::copy_n(plane + y * width, width, band + (y - first + 1) * step + kLanes);
  }
}

// sums [3, 3] += products of grad_y's pixels with their neighbours in a band.
DMGAN_HOT inline void add_band(const float* grad_y, int64_t width, int64_t rows, const float* band, int64_t step,
                               double* sums) {
  Vec totals[9] = {};
  for (int64_t y = 0; y < rows; ++y) {
    const float* from = band + y * step + kLanes;
    const auto add = [&](int64_t x, Vec grad) DMGAN_INLINED {
      DMGAN_UNROLL
      for (int a = 0; a < 3; ++a) {
        DMGAN_UNROLL
        for (int b = 0; b < 3; ++b) totals[a * 3 + b] += grad * load(from + a * step + x + b - 1);
      }
    };
    int64_t x = 0;
    for (; x + kLanes <= width; x += kLanes) add(x, load(grad_y + y * width + x));
    if (x < width) add(x, load_some(grad_y + y * width + x, width - x));
  }
  for (int tap = 0; tap < 9; ++tap) sums[tap] += sum(totals[tap]);
}

// grad_weight [outputs, inputs, 3, 3]
inline void few_weight_gradient(const FeatureMap& x_map, const float* x, int64_t outputs, const float* grad_y,
                                float* grad_weight) {
  const int64_t inputs = x_map.channels, height = x_map.height, width = x_map.width;
  const int64_t step = round_up(width, kLanes) + 2 * kLanes;
  torch::stable::parallel_for(0, inputs, 1, [&](int64_t begin, int64_t end) {
    float* band = scratch((kBandRows + 2) * step);
    for (int64_t c = begin; c < end; ++c) {
      double sums[kFewResults][9] = {};
      for (int64_t b = 0; b < x_map.batch; ++b) {
        for (int64_t first = 0; first < height; first += kBandRows) {
          const int64_t last = std::min(first + kBandRows, height);
          pad_band(x + (b * inputs + c) * x_map.pixels(), height, width, first, last, step, band);
          for (int64_t o = 0; o < outputs; ++o) {
            add_band(grad_y + (b * outputs + o) * x_map.pixels() + first * width, width, last - first, band, step,
                     sums[o]);
          }
        }
      }
      for (int64_t o = 0; o < outputs; ++o) {
        for (int tap = 0; tap < 9; ++tap) grad_weight[(o * inputs + c) * 9 + tap] = static_cast<float>(sums[o][tap]);
      }
    }
  });
}

}  // namespace dmgan
