// Tiles of a batch of feature maps [B, C, H, W], numbered row by row through all samples, one in each lane of a vector:
// a group is kLanes of them, so that small maps fill vectors too. NCHW needs no relayout.
#pragma once
#include <algorithm>

#include "forms.h"

namespace dmgan {

struct FeatureMap {
  int64_t batch, channels, height, width;
  int64_t pixels() const { return height * width; }
};

// How many tiles a batch of maps has.
struct Tiling {
  int64_t batch, rows, columns;
  int64_t count() const { return batch * rows * columns; }
};

// Tiles of one row that lie side by side, in lanes first ... first + count - 1.
struct Run {
  int64_t sample, row, column, first, count;
};

struct Group {
  Run run[kLanes];
  int runs = 0;
  int64_t lanes = 0;     // in use
  IntVec after, before;  // all bits where a tile has one before it, after it, in its row: else what lies there is zero

  DMGAN_INLINE void find(const Tiling& tiling, int64_t tile) {
    runs = 0;
    lanes = std::clamp<int64_t>(tiling.count() - tile, 0, kLanes);
    after = before = IntVec{};
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t column = (tile + lane) % tiling.columns, row = (tile + lane) / tiling.columns;
      const int64_t count = std::min(tiling.columns - column, lanes - lane);
      for (int64_t i = lane; i < lane + count; ++i) {
        before[i] = column + i - lane > 0 ? -1 : 0;
        after[i] = column + i - lane + 1 < tiling.columns ? -1 : 0;
      }
      run[runs++] = {row / tiling.rows, row % tiling.rows, column, lane, count};
      lane += count;
    }
  }
  // Whether its tiles, `step` pixels wide, are one run of whole pixels of a map.
  DMGAN_INLINE bool is_whole(int64_t step, int64_t width) const {
    return runs == 1 && run[0].count == kLanes && (run[0].column + kLanes) * step <= width;
  }
};

struct Evens {
  static constexpr int from(int lane) { return 2 * lane; }
};
struct Odds {
  static constexpr int from(int lane) { return 2 * lane + 1; }
};
template <int kFirst>
struct Interleaved {
  static constexpr int from(int lane) { return kFirst + lane / 2 + lane % 2 * kWidth; }
};
struct LastThenFirsts {  // of (a, b): a's last lane, then b's but its last
  static constexpr int from(int lane) { return kWidth - 1 + lane; }
};
struct SecondsThenFirst {  // of (a, b): a's but its first, then b's first
  static constexpr int from(int lane) { return lane + 1; }
};
template <int kBit>
struct ExchangedLow {
  static constexpr int from(int lane) { return lane & kBit ? kWidth + lane - kBit : lane; }
};
template <int kBit>
struct ExchangedHigh {
  static constexpr int from(int lane) { return lane & kBit ? kWidth + lane : lane + kBit; }
};

// s[k][i] = element kStep i + k of all of x [kStep]
template <int kStep>
DMGAN_INLINE void deinterleave(const Vec* x, Vec* s) {
  static_assert(kStep == 1 || kStep == 2 || kStep == 4);
  if constexpr (kStep == 1) {
    s[0] = x[0];
  } else if constexpr (kStep == 2) {
    const Vec a = x[0], b = x[1];
    s[0] = chosen<Evens>(a, b);
    s[1] = chosen<Odds>(a, b);
  } else {
    const Vec evens = chosen<Evens>(x[0], x[1]), evens2 = chosen<Evens>(x[2], x[3]);
    const Vec odds = chosen<Odds>(x[0], x[1]), odds2 = chosen<Odds>(x[2], x[3]);
    s[0] = chosen<Evens>(evens, evens2);
    s[1] = chosen<Evens>(odds, odds2);
    s[2] = chosen<Odds>(evens, evens2);
    s[3] = chosen<Odds>(odds, odds2);
  }
}

template <int kStep>
DMGAN_INLINE void deinterleave(const float* x, Vec* s) {
  Vec loaded[kStep];
  DMGAN_UNROLL
  for (int k = 0; k < kStep; ++k) loaded[k] = load(x + k * kLanes);
  deinterleave<kStep>(loaded, s);
}

// x[kStep i + k] = s[k][i]
template <int kStep>
DMGAN_INLINE void interleave(const Vec* s, float* x) {
  static_assert(kStep == 2 || kStep == 4);
  constexpr int kHalf = kWidth / 2;
  if constexpr (kStep == 2) {
    store(x, chosen<Interleaved<0>>(s[0], s[1]));
    store(x + kLanes, chosen<Interleaved<kHalf>>(s[0], s[1]));
  } else {
    const Vec a = chosen<Interleaved<0>>(s[0], s[2]), b = chosen<Interleaved<0>>(s[1], s[3]);
    const Vec c = chosen<Interleaved<kHalf>>(s[0], s[2]), d = chosen<Interleaved<kHalf>>(s[1], s[3]);
    store(x, chosen<Interleaved<0>>(a, b));
    store(x + kLanes, chosen<Interleaved<kHalf>>(a, b));
    store(x + 2 * kLanes, chosen<Interleaved<0>>(c, d));
    store(x + 3 * kLanes, chosen<Interleaved<kHalf>>(c, d));
  }
}

template <int kBit>
DMGAN_INLINE void exchange(Vec* rows) {
  DMGAN_UNROLL
  for (int i = 0; i < kLanes; ++i) {
    if (i & kBit) continue;
    const Vec low = chosen<ExchangedLow<kBit>>(rows[i], rows[i | kBit]);
    rows[i | kBit] = chosen<ExchangedHigh<kBit>>(rows[i], rows[i | kBit]);
    rows[i] = low;
  }
}

// kLanes rows of kLanes, in place.
DMGAN_INLINE void transpose(Vec* rows) {
  if constexpr (kLanes > 8) exchange<8>(rows);
  if constexpr (kLanes > 4) exchange<4>(rows);
  exchange<2>(rows);
  exchange<1>(rows);
}

// A row of pixels of a group's tiles, kStep for each lane, with room for a pixel on either side.
template <int kStep>
constexpr int64_t kRowFloats = (kStep + 2) * kLanes;

// Where row `r` of the windows of a group lies, or a copy in `staged` (kRowFloats) where it is not one run of pixels;
// zeros outside the map. Row r is pixel row * kRowStep + r + kFirst. One more pixel on either side is valid where the
// group's `before` and `after` say so.
template <int kStep, int kRowStep, int kFirst>
DMGAN_INLINE const float* row_of(const Group& group, const float* plane, int64_t sample_step, int64_t height,
                                 int64_t width, int r, bool whole, float* staged) {
  alignas(64) static constexpr float kZeros[kRowFloats<kStep>] = {};
  if (whole) {
    const Run& run = group.run[0];
    const int64_t y = run.row * kRowStep + r + kFirst;
    if (y < 0 || y >= height) return kZeros + kLanes;
    return plane + run.sample * sample_step + y * width + run.column * kStep;
  }
  std::fill_n(staged, kRowFloats<kStep>, 0.0f);
  for (int k = 0; k < group.runs; ++k) {
    const Run& run = group.run[k];
    const int64_t y = run.row * kRowStep + r + kFirst, x = run.column * kStep;
    if (y < 0 || y >= height) continue;
    const float* from = plane + run.sample * sample_step + y * width + x;
    float* to = staged + kLanes + run.first * kStep;
    const int64_t count = std::min(run.count * kStep, width - x);
    std::copy_n(from, count, to);
    if (k == 0 && x > 0) to[-1] = from[-1];
    if (k + 1 == group.runs && x + run.count * kStep < width) to[run.count * kStep] = from[run.count * kStep];
  }
  return staged + kLanes;
}

// Copies row `r` of a group's results, kStep pixels for each lane, to where it belongs.
template <int kRowStep, int kStep>
DMGAN_INLINE void write_runs(const Group& group, const float* row, float* plane, int64_t sample_step, int64_t height,
                             int64_t width, int r) {
  for (int k = 0; k < group.runs; ++k) {
    const Run& run = group.run[k];
    const int64_t y = run.row * kRowStep + r, x = run.column * kStep;
    if (y >= height) continue;
    std::copy_n(row + run.first * kStep, std::min(run.count * kStep, width - x),
                plane + run.sample * sample_step + y * width + x);
  }
}

}  // namespace dmgan
