// 3x3 convolutions with fewer multiplications (Toom-Cook; Winograd 1980, Lavin & Gray 2016), by tiles of a picture:
//   products_p = U_p V_p  for each p,  U = G w G^T,  V = B^T window B,  result = A^T products A
// Plain: 16 products for 2 x 2 pixels instead of 36. After nearest x2: 9 for the 2 x 2 copies of a pixel, not 36.
// Sixteen tiles of a row lie side by side in a vector, so NCHW needs no relayout; a block's windows, products and
// results stay in cache.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "gemm.h"

namespace dmgan {

constexpr int64_t kGroups = 64 / kLanes;       // vectors of tiles in a block
constexpr int64_t kTiles = kGroups * kLanes;
constexpr int64_t kChannels = 64;              // result channels computed at once; channels of a panel
constexpr int64_t kDepth = 128;                // input channels summed before the sum is added to the others
constexpr int kTaps = 3;

// ------------------------------------------------------------------------------------------------------------ forms
// One dimension: window of kWindow pixels every kStep -> kProducts values; kProducts products -> kResults pixels.

struct PlainForm {  // y0 = w0 d0 + w1 d1 + w2 d2, y1 = w0 d1 + w1 d2 + w2 d3
  static constexpr int kWindow = 4, kStep = 2, kProducts = 4, kResults = 2;
  static constexpr float kWeights[kProducts][kTaps] = {{1, 0, 0}, {0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f}, {0, 0, 1}};
  static constexpr int kFrom[kProducts][kWindow] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
  static constexpr int kTo[kResults][kProducts] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
};

struct UpForm {  // y0 = w0 d0 + (w1 + w2) d1, y1 = (w0 + w1) d1 + w2 d2
  static constexpr int kWindow = 3, kStep = 1, kProducts = 3, kResults = 2;
  static constexpr float kWeights[kProducts][kTaps] = {{1, 0, 0}, {1, 1, 1}, {0, 0, 1}};
  static constexpr int kFrom[kProducts][kWindow] = {{1, -1, 0}, {0, 1, 0}, {0, -1, 1}};
  static constexpr int kTo[kResults][kProducts] = {{1, 1, 0}, {0, 1, 1}};
};

struct UpGradForm {  // its transpose: the window is of grad y from pixel 2i - 1, the result the sum of all products
  static constexpr int kWindow = 4, kStep = 2, kProducts = 3, kResults = 1;
  static constexpr float kWeights[kProducts][kTaps] = {{1, 0, 0}, {1, 1, 1}, {0, 0, 1}};
  static constexpr int kFrom[kProducts][kWindow] = {{0, -1, 0, 1}, {0, 1, 1, 0}, {1, 0, -1, 0}};
  static constexpr int kTo[kResults][kProducts] = {{1, 1, 1}};
};

// sum of coefficient k times value k, for coefficients known at compile time: only additions remain.
template <int kCount, class Coefficients>
DMGAN_INLINE Vec combine(const Coefficients& coefficients, const Vec* values) {
  Vec total{};
  bool empty = true;
  DMGAN_UNROLL
  for (int k = 0; k < kCount; ++k) {
    if (coefficients[k] == 0) continue;
    const Vec value = values[k];
    total = empty ? (coefficients[k] > 0 ? value : -value) : (coefficients[k] > 0 ? total + value : total - value);
    empty = false;
  }
  return total;
}

template <int... kLane>
DMGAN_INLINE Vec evens(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, 2 * kLane...);
}
template <int... kLane>
DMGAN_INLINE Vec odds(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (2 * kLane + 1)...);
}
template <int kFirst, int... kLane>
DMGAN_INLINE Vec interleaved(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (kFirst + kLane / 2 + (kLane % 2) * static_cast<int>(kLanes))...);
}
template <int kBit, int... kLane>
DMGAN_INLINE void exchange(Vec& a, Vec& b, std::integer_sequence<int, kLane...>) {
  constexpr int kOther = static_cast<int>(kLanes);
  const Vec low = __builtin_shufflevector(a, b, (kLane & kBit ? kOther + kLane - kBit : kLane)...);
  b = __builtin_shufflevector(a, b, (kLane & kBit ? kOther + kLane : kLane + kBit)...);
  a = low;
}
using Lanes = std::make_integer_sequence<int, kLanes>;

template <int kBit>
DMGAN_INLINE void exchange_rows(Vec* rows) {
  DMGAN_UNROLL
  for (int i = 0; i < kLanes; ++i) {
    if (!(i & kBit)) exchange<kBit>(rows[i], rows[i | kBit], Lanes{});
  }
}

DMGAN_INLINE void transpose(Vec* rows) {
  if constexpr (kLanes > 8) exchange_rows<8>(rows);
  if constexpr (kLanes > 4) exchange_rows<4>(rows);
  exchange_rows<2>(rows);
  exchange_rows<1>(rows);
}

// ------------------------------------------------------------------------------------------------------------ tiles

struct Picture {
  int64_t batch, channels, height, width;
  int64_t pixels() const { return height * width; }
};

// Tiles [batch, rows, columns] in groups of up to kLanes of one row, and blocks of kGroups groups.
struct Tiling {
  int64_t batch, rows, columns;
  int64_t groups_of_row() const { return (columns + kLanes - 1) / kLanes; }
  int64_t groups() const { return batch * rows * groups_of_row(); }
  int64_t blocks() const { return (groups() + kGroups - 1) / kGroups; }
};

struct Group {
  int64_t sample, row, column, lanes;  // lanes = 0: past the end
};

DMGAN_INLINE Group group_at(const Tiling& tiling, int64_t index) {
  if (index >= tiling.groups()) return {0, 0, 0, 0};
  const int64_t of_row = tiling.groups_of_row(), row = index / of_row, column = index % of_row * kLanes;
  return {row / tiling.rows, row % tiling.rows, column, std::min(kLanes, tiling.columns - column)};
}

struct Block {
  Group group[kGroups];
  DMGAN_INLINE Block(const Tiling& tiling, int64_t index) {
    for (int64_t g = 0; g < kGroups; ++g) group[g] = group_at(tiling, index * kGroups + g);
  }
};

// A row's pixels first ... first + span - 1, zeros beyond its ends; `edge` has room for them.
template <int kSpan>
DMGAN_INLINE const float* padded(const float* row, int64_t first, int64_t width, float* edge) {
  if (first >= 0 && first + kSpan <= width) return row + first;
  const int64_t begin = std::max<int64_t>(first, 0), end = std::min(first + kSpan, width);
  for (int64_t i = 0; i < kSpan; ++i) edge[i] = 0.0f;
  for (int64_t i = begin; i < end; ++i) edge[i - first] = row[i];
  return edge;
}

// Pixel k of each tile's window in vector k.
template <int kWindow, int kStep>
DMGAN_INLINE void load_windows(const float* row, int64_t first, int64_t width, Vec* window) {
  constexpr int kSpan = kStep * (kLanes - 1) + kWindow;
  float edge[kSpan];
  const float* from = padded<kSpan>(row, first, width, edge);
  DMGAN_UNROLL
  for (int k = 0; k < kWindow; k += kStep) {
    if constexpr (kStep == 1) {
      window[k] = load(from + k);
    } else {
      const Vec low = load(from + k), high = load(from + k + kLanes);
      window[k] = evens(low, high, Lanes{});
      window[k + 1] = odds(low, high, Lanes{});
    }
  }
}

// V of one group and channel: values[p * step], p = vertical * kProducts + horizontal.
template <class Form>
DMGAN_INLINE void transform_window(const float* picture, int64_t height, int64_t width, const Group& group,
                                   float* values, int64_t step) {
  constexpr int kWindow = Form::kWindow, kProducts = Form::kProducts;
  Vec rows[kProducts][kWindow];
  DMGAN_UNROLL
  for (int r = 0; r < kWindow; ++r) {
    const int64_t y = group.row * Form::kStep + r - 1;
    Vec window[kWindow] = {};
    if (y >= 0 && y < height) {
      load_windows<kWindow, Form::kStep>(picture + y * width, group.column * Form::kStep - 1, width, window);
    }
    DMGAN_UNROLL
    for (int j = 0; j < kProducts; ++j) rows[j][r] = combine<kWindow>(Form::kFrom[j], window);
  }
  DMGAN_UNROLL
  for (int i = 0; i < kProducts; ++i) {
    DMGAN_UNROLL
    for (int j = 0; j < kProducts; ++j) {
      store(values + (i * kProducts + j) * step, combine<kWindow>(Form::kFrom[i], rows[j]));
    }
  }
}

// The pixels of one group and channel from its products.
template <class Form>
DMGAN_INLINE void write_results(const float* products, int64_t step, const Group& group, float* picture, int64_t height,
                                int64_t width) {
  constexpr int kProducts = Form::kProducts, kResults = Form::kResults;
  Vec columns[kResults][kProducts];  // combined vertically
  DMGAN_UNROLL
  for (int j = 0; j < kProducts; ++j) {
    Vec column[kProducts];
    DMGAN_UNROLL
    for (int i = 0; i < kProducts; ++i) column[i] = load(products + (i * kProducts + j) * step);
    DMGAN_UNROLL
    for (int r = 0; r < kResults; ++r) columns[r][j] = combine<kProducts>(Form::kTo[r], column);
  }
  DMGAN_UNROLL
  for (int r = 0; r < kResults; ++r) {
    const int64_t y = group.row * kResults + r, x = group.column * kResults;
    if (y >= height) continue;
    float* to = picture + y * width + x;
    const Vec a = combine<kProducts>(Form::kTo[0], columns[r]);
    const Vec b = combine<kProducts>(Form::kTo[1], columns[r]);
    const int64_t count = std::min(width - x, group.lanes * kResults);
    store_some(to, interleaved<0>(a, b, Lanes{}), count);
    if (count > kLanes) store_some(to + kLanes, interleaved<kLanes / 2>(a, b, Lanes{}), count - kLanes);
  }
}

// y = form of x, for one block. u [p, outputs, inputs]; memory: see block_floats.
template <class Form>
DMGAN_HOT void convolve_block(const Picture& from, const float* x, const float* u, const Picture& to, float* y,
                                 const Tiling& tiling, int64_t block, float* memory) {
  constexpr int64_t kAll = Form::kProducts * Form::kProducts;
  constexpr bool kSum = Form::kResults == 1;  // products are added up as they are made
  float* windows = memory;
  float* products = memory + kAll * from.channels * kTiles;
  const Block groups(tiling, block);
  for (int64_t c = 0; c < from.channels; ++c) {  // groups of a channel in turn: neighbours in memory
    for (int64_t g = 0; g < kGroups; ++g) {
      const Group& group = groups.group[g];
      const float* picture = x + (group.sample * from.channels + c) * from.pixels();
      transform_window<Form>(picture, from.height, from.width, group, windows + c * kTiles + g * kLanes,
                             from.channels * kTiles);
    }
  }
  for (int64_t first = 0; first < to.channels; first += kChannels) {
    const int64_t count = std::min(kChannels, to.channels - first);
    for (int64_t p = 0; p < kAll; ++p) {
      float* result = products + (kSum ? 0 : p * kChannels * kTiles);
      for (int64_t c = 0; c < from.channels; c += kDepth) {
        const Scalars weights{u + (p * to.channels + first) * from.channels + c, from.channels, 1};
        const float* of_p = windows + (p * from.channels + c) * kTiles;
        const int64_t depth = std::min(kDepth, from.channels - c);
        if (c || (kSum && p)) {
          multiply<true>(count, kTiles, depth, weights, of_p, kTiles, result, kTiles);
        } else {
          multiply<false>(count, kTiles, depth, weights, of_p, kTiles, result, kTiles);
        }
      }
    }
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t g = 0; g < kGroups; ++g) {
        const Group& group = groups.group[g];
        if (!group.lanes) break;
        const float* of_c = products + c * kTiles + g * kLanes;
        float* picture = y + (group.sample * to.channels + first + c) * to.pixels();
        if constexpr (kSum) {
          store_some(picture + group.row * to.width + group.column, load(of_c), group.lanes);
        } else {
          write_results<Form>(of_c, kChannels * kTiles, group, picture, to.height, to.width);
        }
      }
    }
  }
}

template <class Form>
int64_t block_floats(int64_t inputs) {
  constexpr int64_t kAll = Form::kProducts * Form::kProducts;
  return kAll * (inputs + kChannels) * kTiles;
}

// G w G^T of weight [O, I, 3, 3] as [p, O, I]; transposed: [p, I, O], flipped: of the kernel turned by 180 degrees.
template <class Form>
void transform_weights(const float* weight, int64_t outputs, int64_t inputs, bool transposed, bool flipped, float* u) {
  constexpr int kProducts = Form::kProducts;
  const int64_t rows = transposed ? inputs : outputs, columns = transposed ? outputs : inputs;
  torch::stable::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const float* w = weight + (transposed ? c * inputs + r : r * inputs + c) * kTaps * kTaps;
        float half[kProducts][kTaps];
        for (int i = 0; i < kProducts; ++i) {
          for (int b = 0; b < kTaps; ++b) {
            float total = 0.0f;
            for (int a = 0; a < kTaps; ++a) {
              total += Form::kWeights[i][a] * w[flipped ? 8 - a * kTaps - b : a * kTaps + b];
            }
            half[i][b] = total;
          }
        }
        for (int i = 0; i < kProducts; ++i) {
          for (int j = 0; j < kProducts; ++j) {
            float total = 0.0f;
            for (int b = 0; b < kTaps; ++b) total += Form::kWeights[j][b] * half[i][b];
            u[((i * kProducts + j) * rows + r) * columns + c] = total;
          }
        }
      }
    }
  });
}

template <class Form>
void convolve(const Picture& from, const float* x, const float* u, const Picture& to, float* y) {
  const Tiling tiling{from.batch, (to.height + Form::kResults - 1) / Form::kResults,
                      (to.width + Form::kResults - 1) / Form::kResults};
  torch::stable::parallel_for(0, tiling.blocks(), 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(block_floats<Form>(from.channels));
    for (int64_t block = begin; block < end; ++block) {
      convolve_block<Form>(from, x, u, to, y, tiling, block, memory);
    }
  });
}

// --------------------------------------------------------------------------------------------- gradient of the weight
// dU_p = sum over tiles of (A grad_y A^T)_p V_p^T: one vertical product i at a time, for a fixed part of the tiles.

constexpr int64_t kPartBlocks = 32;  // of a part, at least
constexpr int64_t kParts = 8;        // at most

template <class Form>
struct WeightGrad {
  Picture x, y;
  Tiling tiling;
  int64_t width() const { return round_up(x.channels, kLanes); }
  int64_t parts() const { return std::clamp<int64_t>(tiling.blocks() / kPartBlocks, 1, kParts); }
  int64_t sums() const { return Form::kProducts * y.channels * width(); }  // of one vertical product
  int64_t scratch_floats() const { return Form::kProducts * (round_up(x.channels, kChannels) + y.channels) * kTiles; }
};

// V^T of sixteen channels of one group: to[j][tile][channel], panels of kChannels channels.
template <class Form>
DMGAN_INLINE void transposed_windows(const Picture& of, const float* sample, const Group& group, int vertical,
                                     int64_t channels, float* to, int64_t step) {
  constexpr int kWindow = Form::kWindow, kProducts = Form::kProducts;
  Vec values[kProducts][kLanes] = {};
  for (int64_t c = 0; c < channels; ++c) {
    const float* picture = sample + c * of.pixels();
    Vec window[kWindow] = {};
    for (int r = 0; r < kWindow; ++r) {
      const int64_t y = group.row * Form::kStep + r - 1;
      const float sign = static_cast<float>(Form::kFrom[vertical][r]);
      if (sign == 0.0f || y < 0 || y >= of.height) continue;
      Vec row[kWindow];
      load_windows<kWindow, Form::kStep>(picture + y * of.width, group.column * Form::kStep - 1, of.width, row);
      DMGAN_UNROLL
      for (int k = 0; k < kWindow; ++k) window[k] += sign * row[k];
    }
    DMGAN_UNROLL
    for (int j = 0; j < kProducts; ++j) values[j][c] = combine<kWindow>(Form::kFrom[j], window);
  }
  for (int j = 0; j < kProducts; ++j) {
    transpose(values[j]);
    for (int64_t lane = 0; lane < kLanes; ++lane) store(to + j * step + lane * kChannels, values[j][lane]);
  }
}

// (A grad_y A^T) of one group and channel: to[j * step]; lanes past the group's are zero.
template <class Form>
DMGAN_INLINE void spread_results(const float* picture, int64_t height, int64_t width, const Group& group, int vertical,
                                 float* to, int64_t step) {
  constexpr int kProducts = Form::kProducts, kResults = Form::kResults;
  static_assert(kResults == 2);
  Vec pair[kResults] = {};
  for (int r = 0; r < kResults; ++r) {
    const int64_t y = group.row * kResults + r;
    const float sign = static_cast<float>(Form::kTo[r][vertical]);
    if (sign == 0.0f || y >= height || !group.lanes) continue;
    Vec row[kResults];
    load_windows<kResults, kResults>(picture + y * width, group.column * kResults, width, row);
    DMGAN_UNROLL
    for (int k = 0; k < kResults; ++k) pair[k] += sign * row[k];
  }
  DMGAN_UNROLL
  for (int j = 0; j < kProducts; ++j) {
    const int of_j[kResults] = {Form::kTo[0][j], Form::kTo[1][j]};
    store(to + j * step, combine<kResults>(of_j, pair));
  }
}

// sums [j, outputs, width] of blocks first ... last - 1.
template <class Form>
DMGAN_HOT void weight_grad_part(const WeightGrad<Form>& call, const float* x, const float* grad_y, int vertical,
                                   int64_t first, int64_t last, float* sums, float* memory) {
  constexpr int kProducts = Form::kProducts;
  const int64_t inputs = call.x.channels, outputs = call.y.channels, width = call.width();
  const int64_t padded_inputs = round_up(inputs, kChannels);
  float* windows = memory;                                              // [j, panel, tile, kChannels]
  float* spread = memory + kProducts * padded_inputs * kTiles;          // [j, output, tile]
  std::fill_n(sums, call.sums(), 0.0f);
  for (int64_t block = first; block < last; ++block) {
    const Block groups(call.tiling, block);
    for (int64_t c = 0; c < inputs; c += kLanes) {
      for (int64_t g = 0; g < kGroups; ++g) {
        const Group& group = groups.group[g];
        const float* sample = x + group.sample * inputs * call.x.pixels();
        float* to = windows + c / kChannels * kChannels * kTiles + g * kLanes * kChannels + c % kChannels;
        transposed_windows<Form>(call.x, sample + c * call.x.pixels(), group, vertical, std::min(kLanes, inputs - c),
                                 to, padded_inputs * kTiles);
      }
    }
    for (int64_t c = 0; c < outputs; ++c) {
      for (int64_t g = 0; g < kGroups; ++g) {
        const Group& group = groups.group[g];
        const float* picture = grad_y + (group.sample * outputs + c) * call.y.pixels();
        spread_results<Form>(picture, call.y.height, call.y.width, group, vertical,
                             spread + c * kTiles + g * kLanes, outputs * kTiles);
      }
    }
    for (int64_t j = 0; j < kProducts; ++j) {
      const Scalars of_y{spread + j * outputs * kTiles, kTiles, 1};
      for (int64_t c = 0; c < width; c += kChannels) {
        multiply<true>(outputs, std::min(kChannels, width - c), kTiles, of_y,
                       windows + (j * padded_inputs + c) * kTiles, kChannels, sums + j * outputs * width + c, width);
      }
    }
  }
}

// grad_w = G^T dU G; parts [vertical, part, j, outputs, width] are added up in order.
template <class Form>
void finish_weight_grad(const WeightGrad<Form>& call, const float* parts, float* grad_weight) {
  constexpr int kProducts = Form::kProducts;
  const int64_t inputs = call.x.channels, outputs = call.y.channels, width = call.width();
  torch::stable::parallel_for(0, outputs, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> du(kProducts * kProducts * width), row(inputs);
    for (int64_t o = begin; o < end; ++o) {
      for (int i = 0; i < kProducts; ++i) {
        for (int j = 0; j < kProducts; ++j) {
          float* total = du.data() + (i * kProducts + j) * width;
          std::fill_n(total, width, 0.0f);
          for (int64_t part = 0; part < call.parts(); ++part) {
            const float* from = parts + (i * call.parts() + part) * call.sums() + (j * outputs + o) * width;
            for (int64_t c = 0; c < width; ++c) total[c] += from[c];
          }
        }
      }
      for (int a = 0; a < kTaps; ++a) {
        for (int b = 0; b < kTaps; ++b) {
          std::fill(row.begin(), row.end(), 0.0f);
          for (int i = 0; i < kProducts; ++i) {
            for (int j = 0; j < kProducts; ++j) {
              const float coefficient = Form::kWeights[i][a] * Form::kWeights[j][b];
              const float* from = du.data() + (i * kProducts + j) * width;
              if (coefficient == 0.0f) continue;
              for (int64_t c = 0; c < inputs; ++c) row[c] += coefficient * from[c];
            }
          }
          for (int64_t c = 0; c < inputs; ++c) grad_weight[((o * inputs + c) * kTaps + a) * kTaps + b] = row[c];
        }
      }
    }
  });
}

template <class Form>
void weight_grad(const WeightGrad<Form>& call, const float* x, const float* grad_y, float* parts, float* grad_weight) {
  const int64_t count = call.parts(), blocks = call.tiling.blocks();
  torch::stable::parallel_for(0, count * Form::kProducts, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(call.scratch_floats());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / Form::kProducts, vertical = task % Form::kProducts;  // neighbours share pictures
      weight_grad_part<Form>(call, x, grad_y, static_cast<int>(vertical), part * blocks / count,
                             (part + 1) * blocks / count, parts + (vertical * count + part) * call.sums(), memory);
    }
  });
  finish_weight_grad<Form>(call, parts, grad_weight);
}

}  // namespace dmgan
