// NCHW <-> channels-last, in tiles that read and write whole cache lines; PyTorch's copy takes several times as long.
#include <algorithm>
#include <cstdint>

#include "../schemas.h"
#include "../tensors.h"
#include "simd.h"

namespace dmgan {
namespace {

constexpr int64_t kSide = 16;    // of a tile: a cache line of floats
constexpr int64_t kStrip = 512;  // columns that a thread takes at once

// to [columns, rows] = from [rows, columns]^T, for columns first ... last - 1.
template <class E>
DMGAN_HOT void transpose(const E* from, E* to, int64_t rows, int64_t columns, int64_t first, int64_t last) {
  for (int64_t c = first; c < last; c += kSide) {
    const int64_t width = std::min(kSide, last - c);
    for (int64_t r = 0; r < rows; r += kSide) {
      const int64_t height = std::min(kSide, rows - r);
      E tile[kSide][kSide];
      for (int64_t i = 0; i < height; ++i) std::memcpy(tile[i], from + (r + i) * columns + c, width * sizeof(E));
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < height; ++i) to[(c + j) * rows + r + i] = tile[i][j];
      }
    }
  }
}

template <class E>
void transpose_samples(const E* from, E* to, int64_t samples, int64_t rows, int64_t columns) {
  const int64_t strips = (columns + kStrip - 1) / kStrip;
  torch::stable::parallel_for(0, samples * strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t offset = k / strips * rows * columns, first = k % strips * kStrip;
      transpose(from + offset, to + offset, rows, columns, first, std::min(columns, first + kStrip));
    }
  });
}

// x [B, C, H, W], dense: channels-last if it is NCHW, and the other way round.
Tensor relayout(const Tensor& x) {
  const int64_t samples = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const bool back = is_channels_last(x);
  Tensor y = back ? torch::stable::new_empty(x, {samples, channels, height, width})
                  : empty_channels_last(x, channels, height, width);
  const int64_t rows = back ? height * width : channels, columns = back ? channels : height * width;
  DMGAN_FLOAT_TYPES(x, transpose_samples(data<S>(x), mutable_data<S>(y), samples, rows, columns));
  return y;
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, relayout)
