// Convolutions with fewer multiplications, by tiles of a feature map (forms.h, in both dimensions):
//   products_p = U_p V_p  for each p,  U = G w G^T,  V = From window From^T,  result = To products To^T
// Where a product sums several values of a window, those are so many input channels.
// A block's windows, products and results stay in cache; U is packed in the order in which it is read.
#pragma once
#include <vector>

#include "gemm.h"
#include "tiles.h"

namespace dmgan {

constexpr int kColumns = 2;                           // vectors of tiles beside the rows of a block of products
constexpr int64_t kPanel = block_rows<kColumns>();    // rows of a packed panel of U
constexpr int64_t kChannels = 64;                     // result channels computed at once, about
constexpr int64_t kChunkStep = kPanel % 2 ? 2 * kPanel : kPanel;  // they are whole panels, and pairs
constexpr int64_t kGap = 16;  // floats between products: at whole powers of two apart they would share cache sets
constexpr int64_t kCacheFloats = 160 << 10;           // of a block's windows

// ------------------------------------------------------------------------------------------------------- convolution

template <class F>
struct Convolution {
  FeatureMap x, y;
  Tiling tiling;

  int64_t inputs() const { return x.channels * F::kParts; }
  // Tiles of a block: as many as keep its windows in cache.
  int64_t tiles() const {
    constexpr int64_t kLeast = kColumns * kLanes, kMost = 64;
    int64_t tiles = kMost;
    while (tiles > kLeast && tiles * inputs() * F::kValues > kCacheFloats) tiles /= 2;
    return tiles;
  }
  int64_t blocks() const { return (tiling.count() + tiles() - 1) / tiles(); }
  int64_t chunks() const { return (y.channels + kChannels - 1) / kChannels; }
  int64_t chunk() const { return round_up((y.channels + chunks() - 1) / chunks(), kChunkStep); }
  int64_t value_step() const { return inputs() * tiles() + kGap; }  // from product to product
  int64_t result_step() const { return chunk() * tiles() + kGap; }
};

// Rows of the vertical transform of one group, between the two transforms.
template <class F>
constexpr int64_t kStrips = F::Vertical::kValues > F::Vertical::kResults ? F::Vertical::kValues : F::Vertical::kResults;
constexpr int64_t kStripFloats = kRowFloats<4>;
constexpr int64_t kStagedFloats = 6 * kRowFloats<4>;  // of the rows of a window, where they are copied

// Pixels k ... of the windows of a group from one row of them: d[k], zero where a neighbour is not in the row.
template <class H>
DMGAN_INLINE void windows_of(const Group& group, const float* row, Vec* d) {
  Vec s[H::kStep];
  deinterleave<H::kStep>(row, s);
  DMGAN_UNROLL
  for (int k = 0; k < H::kWindow; ++k) {
    if (k == 0) {
      const Vec moved = chosen<LastThenFirsts>(load(row - kLanes), s[H::kStep - 1]);
      d[0] = bits<Vec>(bits<IntVec>(moved) & group.before);
    } else if (k <= H::kStep) {
      d[k] = s[k - 1];
    } else {
      const Vec moved = chosen<SecondsThenFirst>(s[k - 1 - H::kStep], splat(row[H::kStep * kLanes]));
      d[k] = bits<Vec>(bits<IntVec>(moved) & group.after);
    }
  }
  static_assert(H::kWindow <= H::kStep + 2);
}

// V of one group and channel: values[value * step + part * part_step], value = vertical * kAcross + horizontal.
template <class F>
DMGAN_INLINE void transform_window(const Group& group, const FeatureMap& map, const float* plane, float* strips,
                                   float* staged, float* values, int64_t step, int64_t part_step) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  const bool whole = group.is_whole(H::kStep, map.width);
  const float* rows[V::kWindow];
  for (int r = 0; r < V::kWindow; ++r) {
    rows[r] = row_of<H::kStep, V::kStep, -1>(group, plane, map.channels * map.pixels(), map.height, map.width, r, whole,
                                             staged + r * kRowFloats<H::kStep>);
  }
  DMGAN_UNROLL
  for (int q = 0; q < H::kStep; ++q) {
    Vec d[V::kWindow], v[V::kValues];
    DMGAN_UNROLL
    for (int r = 0; r < V::kWindow; ++r) d[r] = load(rows[r] + q * kLanes);
    V::from(d, v);
    DMGAN_UNROLL
    for (int i = 0; i < V::kValues; ++i) store(strips + i * kStripFloats + (1 + q) * kLanes, v[i]);
  }
  for (const int64_t at : {int64_t{-1}, H::kStep * kLanes}) {  // the pixels on either side
    if (at < 0 ? !group.before[0] : !group.after[kLanes - 1]) continue;
    float d[V::kWindow], v[V::kValues];
    for (int r = 0; r < V::kWindow; ++r) d[r] = rows[r][at];
    V::from(d, v);
    for (int i = 0; i < V::kValues; ++i) strips[i * kStripFloats + kLanes + at] = v[i];
  }
  for (int i = 0; i < V::kValues; ++i) {
    Vec d[H::kWindow], v[H::kValues];
    windows_of<H>(group, strips + i * kStripFloats + kLanes, d);
    H::from(d, v);
    float* to = values + i % F::kDown * F::kAcross * step + i / F::kDown * F::kAcrossParts * part_step;
    DMGAN_UNROLL
    for (int j = 0; j < H::kValues; ++j) store(to + j % F::kAcross * step + j / F::kAcross * part_step, v[j]);
  }
}

template <class F>
DMGAN_HOT void transform_windows(const Convolution<F>& call, const float* x, const Group* groups, float* strips,
                                 float* staged, float* values) {
  const int64_t tiles = call.tiles(), step = call.value_step();
  for (int64_t c = 0; c < call.x.channels; ++c) {  // groups of a channel in turn: neighbours in memory
    for (int64_t g = 0; g * kLanes < tiles; ++g) {
      transform_window<F>(groups[g], call.x, x + c * call.x.pixels(), strips, staged, values + c * tiles + g * kLanes,
                          step, call.x.channels * tiles);
    }
  }
}

// c [rows, tiles] = or += panels of u, from input channel `first` on, times b [depth, tiles].
template <bool kAdd>
DMGAN_INLINE void multiply_panels(const float* u, int64_t inputs, int64_t first, int64_t rows, int64_t depth,
                                  const float* b, int64_t tiles, float* c) {
  for (int64_t n = 0; n < tiles; n += kColumns * kLanes) {
    for (int64_t r = 0; r < rows; r += kPanel) {
      const auto finish = [=](int64_t row, int64_t column, Vec sum) DMGAN_INLINED {
        float* to = c + (r + row) * tiles + column;
        store(to, kAdd ? load(to) + sum : sum);
      };
      const int64_t width = std::min(kPanel, rows - r);
      const float* panel = u + r * inputs + first * width;
      if (width == kPanel) {
        multiply_block<kPanel, kColumns>(depth, {panel, 1, kPanel}, b, tiles, 0, n, finish);
      } else {
        multiply_column<kColumns>(width, depth, {panel, 1, width}, b, tiles, n, finish);
      }
    }
  }
}

// The products of result channels first ... first + count - 1; with kSum, their sum.
template <class F, bool kSum>
DMGAN_HOT void multiply_products(const Convolution<F>& call, const float* u, int64_t first, int64_t count,
                                 const float* values, float* products) {
  const int64_t inputs = call.inputs(), tiles = call.tiles();
  for (int64_t p = 0; p < F::kProducts; ++p) {
    const float* of_p = u + (p * call.y.channels + first) * inputs;
    float* result = products + (kSum ? 0 : p * call.result_step());
    for (int64_t c = 0; c < inputs; c += F::kDepth) {
      const float* windows = values + F::values_of(p) * call.value_step() + c * tiles;
      const int64_t depth = std::min(F::kDepth, inputs - c);
      if (c || (kSum && p)) {
        multiply_panels<true>(of_p, inputs, c, count, depth, windows, tiles, result);
      } else {
        multiply_panels<false>(of_p, inputs, c, count, depth, windows, tiles, result);
      }
    }
  }
}

// What becomes of the results before they are written.
struct Plain {
  const float* bias;  // [O], or null
};
struct Norm {  // of each channel [O]: (result - mean) scale + bias
  const float *mean, *scale, *bias;
  DMGAN_INLINE Vec apply(Vec result, int64_t channel) const {
    return (result - mean[channel]) * scale[channel] + bias[channel];
  }
};
struct Gated {  // z = norm of the results; the first half of its channels times sigmoid of the second
  Norm norm;
};
struct Skipped {  // norm of the results, + skip [B, skip_channels, H, W], which is repeated
  Norm norm;
  const float* skip;
  int64_t skip_channels;
};
template <class Finish>
constexpr bool kIsGated = std::is_same_v<Finish, Gated>;

// The result channel that row `row` of a chunk [first, first + count) computes: a gated chunk has its values first, then
// their gates, `half` channels further on.
template <class Finish>
constexpr int64_t channel_of(int64_t row, int64_t first, int64_t count, int64_t half) {
  if constexpr (!kIsGated<Finish>) return first + row;
  return row < count / 2 ? first / 2 + row : half + first / 2 + row - count / 2;
}

// The vertical transform of one group and channel from its products.
template <class F>
DMGAN_INLINE void vertical_results(const float* products, int64_t step, float* strips) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  DMGAN_UNROLL
  for (int j = 0; j < H::kProducts; ++j) {
    Vec m[V::kProducts], y[V::kResults];
    DMGAN_UNROLL
    for (int i = 0; i < V::kProducts; ++i) m[i] = load(products + (i * H::kProducts + j) * step);
    V::to(m, y);
    DMGAN_UNROLL
    for (int r = 0; r < V::kResults; ++r) store(strips + r * kStripFloats + j * kLanes, y[r]);
  }
}

// y [kResults] = finish(the pixels of one row of it).
template <class H, class Each>
DMGAN_INLINE void row_results(const float* strip, Vec* y, const Each& finish) {
  Vec m[H::kProducts];
  DMGAN_UNROLL
  for (int j = 0; j < H::kProducts; ++j) m[j] = load(strip + j * kLanes);
  H::to(m, y);
  DMGAN_UNROLL
  for (int k = 0; k < H::kResults; ++k) y[k] = finish(y[k]);
}

// Writes the pixels of one group, a row at a time: find(r, y) gives y [kResults] of row r, add(r, whole, row) changes the
// row in memory; `whole`: it is where it belongs, else it is copied there later.
template <class F, class Row, class Add>
DMGAN_INLINE void write_rows(const Group& group, const FeatureMap& map, float* plane, float* strips, const Row& find,
                             const Add& add) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  const bool whole = group.is_whole(H::kResults, map.width);
  const int64_t sample_step = map.channels * map.pixels();
  const Run& run = group.run[0];
  const int64_t top = run.row * V::kResults;
  float* corner = plane + run.sample * sample_step + top * map.width + run.column * H::kResults;
  for (int r = 0; r < V::kResults; ++r) {
    if (whole && top + r >= map.height) break;
    float* row = whole ? corner + r * map.width : strips + r * kStripFloats;
    Vec y[H::kResults];
    find(r, y);
    interleave<H::kResults>(y, row);
    add(r, whole, row);
  }
  for (int r = 0; !whole && r < V::kResults; ++r) {
    write_runs<V::kResults, H::kResults>(group, strips + r * kStripFloats, plane, sample_step, map.height, map.width, r);
  }
}

// The pixels of one group and channel (or, gated, pair of channels) from its products; `map` is of what is written.
template <class F>
DMGAN_INLINE void write_results(const Plain& finish, const float* products, int64_t step, int64_t, const Group& group,
                                const FeatureMap& map, int64_t channel, float* y, float* strips, float*) {
  const float bias = finish.bias ? finish.bias[channel] : 0.0f;
  vertical_results<F>(products, step, strips);
  write_rows<F>(group, map, y + channel * map.pixels(), strips,
                [&](int r, Vec* row) DMGAN_INLINED {
                  row_results<typename F::Horizontal>(strips + r * kStripFloats, row,
                                                      [=](Vec result) DMGAN_INLINED { return result + bias; });
                },
                [](int, bool, float*) DMGAN_INLINED {});
}

template <class F>
DMGAN_INLINE void write_results(const Gated& finish, const float* products, int64_t step, int64_t gates,
                                const Group& group, const FeatureMap& map, int64_t channel, float* y, float* strips,
                                float*) {
  using H = typename F::Horizontal;
  const int64_t gate = map.channels + channel;
  float* gate_strips = strips + kStrips<F> * kStripFloats;
  vertical_results<F>(products + gates, step, gate_strips);
  vertical_results<F>(products, step, strips);
  write_rows<F>(group, map, y + channel * map.pixels(), strips,
                [&](int r, Vec* row) DMGAN_INLINED {
                  Vec open[H::kResults];
                  row_results<H>(gate_strips + r * kStripFloats, open, [&](Vec result) DMGAN_INLINED {
                    return sigmoid(finish.norm.apply(result, gate));
                  });
                  row_results<H>(strips + r * kStripFloats, row, [&](Vec result) DMGAN_INLINED {
                    return finish.norm.apply(result, channel);
                  });
                  DMGAN_UNROLL
                  for (int k = 0; k < H::kResults; ++k) row[k] *= open[k];
                },
                [](int, bool, float*) DMGAN_INLINED {});
}

template <class F>
DMGAN_INLINE void write_results(const Skipped& finish, const float* products, int64_t step, int64_t,
                                const Group& group, const FeatureMap& map, int64_t channel, float* y, float* strips,
                                float* staged) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  const float* plane = finish.skip + channel % finish.skip_channels * map.pixels();
  vertical_results<F>(products, step, strips);
  write_rows<F>(group, map, y + channel * map.pixels(), strips,
                [&](int r, Vec* row) DMGAN_INLINED {
                  row_results<H>(strips + r * kStripFloats, row, [&](Vec result) DMGAN_INLINED {
                    return finish.norm.apply(result, channel);
                  });
                },
                [&](int r, bool whole, float* row) DMGAN_INLINED {
                  const float* skip = row_of<H::kResults, V::kResults, 0>(
                      group, plane, finish.skip_channels * map.pixels(), map.height, map.width, r, whole, staged);
                  DMGAN_UNROLL
                  for (int k = 0; k < H::kResults; ++k) {
                    store(row + k * kLanes, load(row + k * kLanes) + load(skip + k * kLanes));
                  }
                });
}

template <class F, bool kSum, class Finish>
DMGAN_HOT void write_channels(const Convolution<F>& call, const Finish& finish, const float* products,
                              const Group* groups, int64_t first, int64_t count, float* strips, float* staged,
                              float* y) {
  const int64_t tiles = call.tiles();
  FeatureMap map = call.y;
  if constexpr (kIsGated<Finish>) {
    map.channels /= 2, count /= 2, first /= 2;
  }
  for (int64_t c = 0; c < count; ++c) {
    for (int64_t g = 0; g * kLanes < tiles && groups[g].lanes; ++g) {
      const float* of_c = products + c * tiles + g * kLanes;
      if constexpr (kSum) {
        write_runs<1, 1>(groups[g], of_c, y + (first + c) * map.pixels(), map.channels * map.pixels(), map.height,
                         map.width, 0);
      } else {
        write_results<F>(finish, of_c, call.result_step(), count * tiles, groups[g], map, first + c, y, strips, staged);
      }
    }
  }
}

// Floats of U, for transform_weights.
template <class F>
int64_t weight_floats(const Convolution<F>& call) {
  return F::kProducts * call.y.channels * call.inputs();
}

// To [kTerms<V>, kTerms<H>] = G w G^T of w [taps, taps], kCount of each side by side.
template <class F, int kCount>
DMGAN_INLINE void transform_weight(const double (*w)[kCount], float (*to)[kCount]) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  double half[kTerms<V>][H::kTaps][kCount] = {};
  DMGAN_UNROLL
  for (int i = 0; i < kTerms<V>; ++i) {
    DMGAN_UNROLL
    for (int a = 0; a < V::kTaps; ++a) {
      if (V::kWeights[i][a] == 0.0) continue;
      for (int b = 0; b < H::kTaps; ++b) {
        for (int n = 0; n < kCount; ++n) half[i][b][n] += V::kWeights[i][a] * w[a * H::kTaps + b][n];
      }
    }
  }
  for (int i = 0; i < kTerms<V>; ++i) {
    DMGAN_UNROLL
    for (int j = 0; j < kTerms<H>; ++j) {
      double total[kCount] = {};
      DMGAN_UNROLL
      for (int b = 0; b < H::kTaps; ++b) {
        if (H::kWeights[j][b] == 0.0) continue;
        for (int n = 0; n < kCount; ++n) total[n] += H::kWeights[j][b] * half[i][b][n];
      }
      for (int n = 0; n < kCount; ++n) to[i * kTerms<H> + j][n] = static_cast<float>(total[n]);
    }
  }
}

// G w G^T of weight [O, I, taps, taps] for each p: panels of kPanel rows of each chunk of result channels, each panel
// [inputs, rows]; transposed: results and inputs change places, flipped: the kernel is turned by 180 degrees. Rows of a
// chunk are the channels that Finish wants together.
template <class F, class Finish = Plain>
void transform_weights(const Convolution<F>& call, const float* weight, bool transposed, bool flipped, float* u) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  constexpr int kTogether = 16, kAcrossTerms = kTerms<H>, kAll = kTerms<V> * kAcrossTerms;
  constexpr int kRows = static_cast<int>(round_up(kPanel, 4));
  const int64_t rows = call.y.channels, columns = call.x.channels, inputs = call.inputs(), chunk = call.chunk();
  const int64_t chunk_panels = chunk / kPanel, chunks = (rows + chunk - 1) / chunk;
  torch::stable::parallel_for(0, chunks * chunk_panels, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> all(kAll * kTogether * kPanel);  // [term][column][row] of a panel
    for (int64_t k = begin; k < end; ++k) {
      const int64_t start = k / chunk_panels * chunk, panel = start + k % chunk_panels * kPanel;
      const int64_t width = std::min({kPanel, start + chunk - panel, rows - panel});
      for (int64_t c = 0; width > 0 && c < columns; c += kTogether) {
        const int64_t count = std::min<int64_t>(kTogether, columns - c);
        double w[kTogether][F::kTaps][kRows] = {};
        for (int64_t r = 0; r < width; ++r) {
          const int64_t row =
              channel_of<Finish>(panel + r - start, start, std::min(chunk, rows - start), rows / 2);
          for (int64_t i = 0; i < count; ++i) {
            const int64_t pair = transposed ? (c + i) * rows + row : row * columns + c + i;
            const float* from = weight + pair * F::kTaps;
            for (int tap = 0; tap < F::kTaps; ++tap) w[i][flipped ? F::kTaps - 1 - tap : tap][r] = from[tap];
          }
        }
        for (int64_t i = 0; i < count; ++i) {
          float terms[kAll][kRows];
          transform_weight<F, kRows>(w[i], terms);
          for (int term = 0; term < kAll; ++term) {
            float* to = all.data() + (term * kTogether + i) * width;
            if (width == kPanel) {
              std::copy_n(terms[term], kPanel, to);
            } else {
              std::copy_n(terms[term], width, to);
            }
          }
        }
        for (int term = 0; term < kAll; ++term) {
          const int i = term / kAcrossTerms, j = term % kAcrossTerms;
          const int p = i % V::kProducts * H::kProducts + j % H::kProducts;
          const int part = i / V::kProducts * F::kAcrossParts + j / H::kProducts;
          std::copy_n(all.data() + term * kTogether * width, count * width,
                      u + (p * rows + panel) * inputs + (part * columns + c) * width);
        }
      }
    }
  });
}

// y = form of x, finished. With kSum, the results are the sums of all products. u: of transform_weights.
template <class F, bool kSum = false, class Finish>
void convolve(const Convolution<F>& call, const float* x, const float* u, const Finish& finish, float* y) {
  const int64_t tiles = call.tiles(), chunk = call.chunk(), chunks = (call.y.channels + chunk - 1) / chunk;
  const int64_t blocks = call.blocks();
  // Where blocks are few, their chunks of channels are shared out too, each with windows of its own: the same sums.
  const int64_t shares = blocks < 8 ? chunks : 1, of_share = chunks / shares;
  const int64_t value_floats = round_up(F::kValues * call.value_step(), 16);
  const int64_t product_floats = round_up((kSum ? 1 : F::kProducts) * call.result_step(), 16);
  torch::stable::parallel_for(0, blocks * shares, 1, [&](int64_t begin, int64_t end) {
    float* values = scratch(value_floats + product_floats + 2 * kStrips<F> * kStripFloats + kStagedFloats);
    float* products = values + value_floats;
    float* strips = products + product_floats;  // and those of gates
    float* staged = strips + 2 * kStrips<F> * kStripFloats;
    std::vector<Group> groups(tiles / kLanes);
    for (int64_t task = begin; task < end; ++task) {
      for (int64_t g = 0; g < tiles / kLanes; ++g) groups[g].find(call.tiling, task / shares * tiles + g * kLanes);
      transform_windows<F>(call, x, groups.data(), strips, staged, values);
      const int64_t share = task % shares;
      for (int64_t k = share * of_share; k < (share + 1) * of_share; ++k) {
        const int64_t first = k * chunk, count = std::min(chunk, call.y.channels - first);
        multiply_products<F, kSum>(call, u, first, count, values, products);
        write_channels<F, kSum>(call, finish, products, groups.data(), first, count, strips, staged, y);
      }
    }
  });
}

// --------------------------------------------------------------------------------------------- gradient of the weight
// dU_t = sum over tiles of (To^T grad_y To)_p V_v^T of each term t of product p with value v, for a fixed part of the
// tiles, a chunk of result channels and half of the vertical terms, one after the other: the maps of a block are read
// while they are in cache.

constexpr int64_t kGradTiles = 64;      // of a block
constexpr int64_t kGradChannels = 128;  // result channels at once, about: they share the windows
constexpr int64_t kPartBlocks = 8;   // of a part, at least
constexpr int64_t kTasks = 16;       // that parts are made for, where there are not as many without
constexpr int64_t kGradColumns = kColumns * kLanes;  // input channels that lie side by side in a panel, at most

template <class F>
struct WeightGradient {
  FeatureMap x, y;
  Tiling tiling;
  int64_t width() const { return round_up(x.channels, kLanes); }
  int64_t panel(int64_t first) const { return std::min(kGradColumns, width() - first); }
  int64_t blocks() const { return (tiling.count() + kGradTiles - 1) / kGradTiles; }
  int64_t parts() const {
    return std::clamp<int64_t>(blocks() / kPartBlocks, 1, std::max<int64_t>(kTasks / (chunks() * kHalves), 1));
  }
  int64_t sums() const { return kTerms<typename F::Horizontal> * y.channels * width(); }  // of one vertical term
  int64_t floats() const { return kDownTerms * parts() * sums(); }                          // of all parts
  int64_t chunks() const { return (y.channels + kGradChannels - 1) / kGradChannels; }
  static constexpr int kDownTerms = kTerms<typename F::Vertical>;
  static constexpr int kHalves = kDownTerms < 4 ? 1 : 2;
  static constexpr int kMostTerms = (kDownTerms + kHalves - 1) / kHalves;  // of a half
  static constexpr int half_begin(int half) { return half * kDownTerms / kHalves; }
};

// sums [kStep] = the sum of coefficient r times row r of a group.
template <int kRows, int kStep>
DMGAN_INLINE void combine_rows(const float* coefficients, const float* const* rows, Vec* sums) {
  DMGAN_UNROLL
  for (int q = 0; q < kStep; ++q) sums[q] = Vec{};
  for (int r = 0; r < kRows; ++r) {
    const float coefficient = coefficients[r];
    if (coefficient == 0.0f) continue;
    DMGAN_UNROLL
    for (int q = 0; q < kStep; ++q) sums[q] += coefficient * load(rows[r] + q * kLanes);
  }
}

// The same as a strip of kStep floats for each lane, with a pixel on either side.
template <int kRows, int kStep>
DMGAN_INLINE void combine_windows(const Group& group, const float* coefficients, const float* const* rows,
                                  float* strip) {
  Vec sums[kStep];
  combine_rows<kRows, kStep>(coefficients, rows, sums);
  DMGAN_UNROLL
  for (int q = 0; q < kStep; ++q) store(strip + q * kLanes, sums[q]);
  float before = 0.0f, after = 0.0f;
  for (int r = 0; r < kRows; ++r) {
    if (coefficients[r] == 0.0f) continue;
    if (group.before[0]) before += coefficients[r] * rows[r][-1];
    if (group.after[kLanes - 1]) after += coefficients[r] * rows[r][kStep * kLanes];
  }
  strip[-1] = before;
  strip[kStep * kLanes] = after;
}

// Column `vertical` of what a form's transform does to its inputs.
template <int kInputs, int kOutputs, class Transform>
DMGAN_INLINE void coefficients_of(int output, const Transform& transform, float* coefficients) {
  for (int input = 0; input < kInputs; ++input) {
    float unit[kInputs] = {}, result[kOutputs];
    unit[input] = 1.0f;
    transform(unit, result);
    coefficients[input] = result[output];
  }
}

// V^T of one vertical value for all groups: values [j][panel][tile][channel of the panel] of all input channels.
template <class F>
DMGAN_HOT void transposed_windows(const WeightGradient<F>& call, const float* x, const Group* groups, int vertical,
                                  float* strip, float* staged, float* values) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  float coefficients[V::kWindow];
  coefficients_of<V::kWindow, V::kValues>(vertical, [](auto* d, auto* v) { V::from(d, v); }, coefficients);
  const FeatureMap& map = call.x;
  for (int64_t first = 0; first < call.width(); first += kLanes) {
    const int64_t start = first / kGradColumns * kGradColumns, columns = call.panel(start);
    float* panel = values + start * kGradTiles + first - start;
    for (int64_t g = 0; g * kLanes < kGradTiles; ++g) {
      const Group& group = groups[g];
      const bool whole = group.is_whole(H::kStep, map.width);
      float* block = staged + kStagedFloats;  // [j][channel][lane]
      for (int64_t c = 0; c < kLanes; ++c) {
        Vec v[H::kValues] = {};
        if (first + c < map.channels) {
          const float* plane = x + (first + c) * map.pixels();
          const float* rows[V::kWindow];
          for (int r = 0; r < V::kWindow; ++r) {
            if (coefficients[r] == 0.0f) continue;
            rows[r] = row_of<H::kStep, V::kStep, -1>(group, plane, map.channels * map.pixels(), map.height, map.width,
                                                     r, whole, staged + r * kRowFloats<H::kStep>);
          }
          combine_windows<V::kWindow, H::kStep>(group, coefficients, rows, strip + kLanes);
          Vec d[H::kWindow];
          windows_of<H>(group, strip + kLanes, d);
          H::from(d, v);
        }
        DMGAN_UNROLL
        for (int j = 0; j < H::kValues; ++j) store(block + (j * kLanes + c) * kLanes, v[j]);
      }
      for (int j = 0; j < H::kValues; ++j) {
        Vec rows[kLanes];
        DMGAN_UNROLL
        for (int k = 0; k < kLanes; ++k) rows[k] = load(block + (j * kLanes + k) * kLanes);
        transpose(rows);
        float* to = panel + j * call.width() * kGradTiles + g * kLanes * columns;
        DMGAN_UNROLL
        for (int k = 0; k < kLanes; ++k) store(to + k * columns, rows[k]);
      }
    }
  }
}

// To^T grad_y To of all vertical terms of a half: spread [term][j][channel][tile], zero past the tiles. All terms of a
// channel in turn, as rows of many channels may share cache sets.
template <class F>
DMGAN_HOT void spread_gradients(const WeightGradient<F>& call, const float* grad_y, const Group* groups, int half,
                                int64_t first, int64_t count, float* staged, float* spread) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  const int begin = call.half_begin(half), terms = call.half_begin(half + 1) - begin;
  float coefficients[WeightGradient<F>::kMostTerms][V::kResults];
  for (int i = 0; i < terms; ++i) {
    coefficients_of<V::kResults, V::kProducts>((begin + i) % V::kProducts,
                                               [](auto* y, auto* m) { V::spread(y, m); }, coefficients[i]);
  }
  const FeatureMap& map = call.y;
  for (int64_t c = 0; c < count; ++c) {
    const float* plane = grad_y + (first + c) * map.pixels();
    for (int64_t g = 0; g * kLanes < kGradTiles; ++g) {
      const Group& group = groups[g];
      const bool whole = group.is_whole(H::kResults, map.width);
      const float* rows[V::kResults];
      for (int r = 0; r < V::kResults; ++r) {
        rows[r] = row_of<H::kResults, V::kResults, 0>(group, plane, map.channels * map.pixels(), map.height, map.width,
                                                      r, whole, staged + r * kRowFloats<H::kResults>);
      }
      for (int i = 0; i < terms; ++i) {
        Vec sums[H::kResults], s[H::kResults], m[H::kProducts];
        combine_rows<V::kResults, H::kResults>(coefficients[i], rows, sums);
        deinterleave<H::kResults>(sums, s);
        H::spread(s, m);
        float* to = spread + (i * H::kProducts * count + c) * kGradTiles + g * kLanes;
        DMGAN_UNROLL
        for (int j = 0; j < H::kProducts; ++j) store(to + j * count * kGradTiles, m[j]);
      }
    }
  }
}

// sums [j, channels first ... first + count - 1, width] += products of a block.
template <class F>
DMGAN_HOT void add_products(const WeightGradient<F>& call, const float* values, const float* spread, int64_t first,
                            int64_t count, float* sums) {
  const int64_t width = call.width();
  using H = typename F::Horizontal;
  for (int j = 0; j < kTerms<H>; ++j) {
    const Scalars of_y{spread + j % H::kProducts * count * kGradTiles, kGradTiles, 1};
    for (int64_t c = 0; c < width; c += kGradColumns) {
      const int64_t columns = call.panel(c);
      multiply<true>(count, columns, kGradTiles, of_y, values + (value_of<H>(j) * width + c) * kGradTiles, columns,
                     sums + (j * call.y.channels + first) * width + c, width);
    }
  }
}

// G^T dU G of dU [kTerms<V>, kTerms<H>], kCount of each side by side.
template <class F, int kCount>
DMGAN_INLINE void gather_weight(const double (*of_terms)[kCount], double (*taps)[kCount]) {
  using V = typename F::Vertical;
  using H = typename F::Horizontal;
  for (int a = 0; a < V::kTaps; ++a) {
    double half[kTerms<H>][kCount] = {};
    for (int i = 0; i < kTerms<V>; ++i) {
      const double coefficient = V::kWeights[i][a];
      if (coefficient == 0.0) continue;
      for (int j = 0; j < kTerms<H>; ++j) {
        for (int n = 0; n < kCount; ++n) half[j][n] += coefficient * of_terms[i * kTerms<H> + j][n];
      }
    }
    DMGAN_UNROLL
    for (int b = 0; b < H::kTaps; ++b) {
      double total[kCount] = {};
      DMGAN_UNROLL
      for (int j = 0; j < kTerms<H>; ++j) {
        if (H::kWeights[j][b] == 0.0) continue;
        for (int n = 0; n < kCount; ++n) total[n] += H::kWeights[j][b] * half[j][n];
      }
      std::copy_n(total, kCount, taps[a * H::kTaps + b]);
    }
  }
}

// grad_w = G^T dU G; parts [vertical, part, j, outputs, width] are added up in order.
template <class F>
void finish_weight_gradient(const WeightGradient<F>& call, const float* parts, float* grad_weight) {
  constexpr int kDown = kTerms<typename F::Vertical>, kAcross = kTerms<typename F::Horizontal>, kCount = 16;
  const int64_t inputs = call.x.channels, outputs = call.y.channels, width = call.width();
  torch::stable::parallel_for(0, outputs, 4, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t c = 0; c < inputs; c += kCount) {
        const int64_t count = std::min<int64_t>(kCount, inputs - c), read = std::min<int64_t>(kCount, width - c);
        double sums[kDown * kAcross][kCount] = {}, taps[F::kTaps][kCount];
        for (int term = 0; term < kDown * kAcross; ++term) {
          for (int64_t part = 0; part < call.parts(); ++part) {
            const int64_t i = term / kAcross, j = term % kAcross;
            const float* from = parts + (i * call.parts() + part) * call.sums() + (j * outputs + o) * width + c;
            if (read == kCount) {
              for (int n = 0; n < kCount; ++n) sums[term][n] += from[n];
            } else {
              for (int64_t n = 0; n < read; ++n) sums[term][n] += from[n];
            }
          }
        }
        gather_weight<F, kCount>(sums, taps);
        float* to = grad_weight + (o * inputs + c) * F::kTaps;
        for (int64_t n = 0; n < count; ++n) {
          for (int tap = 0; tap < F::kTaps; ++tap) to[n * F::kTaps + tap] = static_cast<float>(taps[tap][n]);
        }
      }
    }
  });
}

// parts: call.floats() floats.
template <class F>
void weight_gradient(const WeightGradient<F>& call, const float* x, const float* grad_y, float* parts,
                     float* grad_weight) {
  using H = typename F::Horizontal;
  const int64_t count = call.parts(), blocks = call.blocks(), chunks = call.chunks();
  const int64_t chunk = (call.y.channels + chunks - 1) / chunks, width = call.width();
  const int64_t value_floats = H::kValues * width * kGradTiles;
  const int64_t term_floats = H::kProducts * kGradTiles;  // of a term and channel
  const int64_t spread_floats = WeightGradient<F>::kMostTerms * term_floats * chunk;
  constexpr int kHalves = WeightGradient<F>::kHalves;
  torch::stable::parallel_for(0, count * kHalves * chunks, 1, [&](int64_t begin, int64_t end) {
    float* values = scratch(value_floats + spread_floats + kStripFloats + kStagedFloats +
                            H::kValues * kLanes * kLanes);
    float* spread = values + value_floats;
    float* strip = spread + spread_floats;
    float* staged = strip + kStripFloats;
    std::vector<Group> groups(kGradTiles / kLanes);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / chunks / kHalves;  // neighbours share feature maps
      const int half = static_cast<int>(task / chunks % kHalves);
      const int64_t first = task % chunks * chunk, channels = std::min(chunk, call.y.channels - first);
      const auto sums_of_term = [&](int i) { return parts + (i * count + part) * call.sums(); };
      const int first_term = call.half_begin(half), end_term = call.half_begin(half + 1);
      for (int i = first_term; i < end_term; ++i) {
        for (int j = 0; j < kTerms<H>; ++j) {
          std::fill_n(sums_of_term(i) + (j * call.y.channels + first) * width, channels * width, 0.0f);
        }
      }
      for (int64_t block = part * blocks / count; block < (part + 1) * blocks / count; ++block) {
        for (int64_t g = 0; g < kGradTiles / kLanes; ++g) groups[g].find(call.tiling, block * kGradTiles + g * kLanes);
        spread_gradients<F>(call, grad_y, groups.data(), half, first, channels, staged, spread);
        for (int i = first_term, before = -1; i < end_term; ++i) {
          const int value = value_of<typename F::Vertical>(i);
          if (value != before) transposed_windows<F>(call, x, groups.data(), value, strip, staged, values);
          before = value;
          const float* of_term = spread + (i - first_term) * term_floats * channels;
          add_products<F>(call, values, of_term, first, channels, sums_of_term(i));
        }
      }
    }
  });
  finish_weight_gradient<F>(call, parts, grad_weight);
}

}  // namespace dmgan
