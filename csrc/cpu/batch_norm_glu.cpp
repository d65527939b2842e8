// Batch norm, then GLU or + skip:  z = (x - mean) rstd weight + bias;  y = z_a sigmoid(z_b)  or  y = z + skip.
// NCHW: a thread takes whole channels, so that statistics and result need one trip to memory: the second pass over a
// channel finds it in cache. Channels-last: fixed chunks of pixels, their sums combined in order.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "../schemas.h"
#include "../tensors.h"
#include "simd.h"

namespace dmgan {
namespace {

constexpr int64_t kBlock = 4096;    // elements summed in floats before the sum continues in doubles
constexpr int64_t kChunk = 256;     // pixels of a channels-last chunk

// Vectors one after the other: along the pixels of one channel (NCHW), or one vector of channels, pixel by pixel
// (channels-last). All hold `lanes` elements but the last, which holds `last`.
struct Strip {
  int64_t count, lanes, last;
  int64_t x_step, y_step, skip_step;  // elements between vectors of x, y and skip
  int64_t valid(int64_t i) const { return i + 1 < count ? lanes : last; }
};

// Numbers of one channel in all lanes (NCHW), or of a vector of channels.
struct Coefficients {
  Vec mean, rstd, scale, bias;  // scale = rstd * weight
  DMGAN_INLINE Vec normalised(Vec x) const { return (x - mean) * rstd; }
  DMGAN_INLINE Vec apply(Vec x) const { return (x - mean) * scale + bias; }
};

DMGAN_INLINE Vec keep(Vec x, int64_t n) {
  if (n >= kLanes) return x;
  IntVec lane;
  for (int32_t i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < static_cast<int32_t>(n) ? x : Vec{};
}

struct Moments {
  Vec sum, squares;  // of x - shift
};

template <class S>
DMGAN_INLINE Moments strip_moments(const Strip& strip, const S* x, Vec shift) {
  Moments m{};
  for (int64_t i = 0; i < strip.count; ++i) {
    const int64_t n = strip.valid(i);
    const Vec d = keep(load_some(x + i * strip.x_step, n) - shift, n);
    m.sum += d;
    m.squares += d * d;
  }
  return m;
}

// Writes y and returns its sums by lane.
template <class S, bool kGlu>
DMGAN_INLINE Vec strip_forward(const Strip& strip, const S* a, const S* b, const S* skip, S* y,
                               const Coefficients& of_a, const Coefficients& of_b) {
  Vec total{};
  for (int64_t i = 0; i < strip.count; ++i) {
    const int64_t n = strip.valid(i);
    Vec result = of_a.apply(load_some(a + i * strip.x_step, n));
    if constexpr (kGlu) {
      result *= sigmoid(of_b.apply(load_some(b + i * strip.x_step, n)));
    } else {
      result += load_some(skip + i * strip.skip_step, n);
    }
    store_some(y + i * strip.y_step, result, n);
    total += keep(result, n);
  }
  return total;
}

struct GradZ {
  Vec a, b;
};

template <class S, bool kGlu>
DMGAN_INLINE GradZ grad_z(Vec grad, Vec xa, Vec xb, const Coefficients& of_a, const Coefficients& of_b) {
  if constexpr (!kGlu) return {grad, Vec{}};
  const Vec open = sigmoid(of_b.apply(xb));
  const Vec of_open = grad * open;
  return {of_open, of_open * (1.0f - open) * of_a.apply(xa)};
}

struct GradSums {
  Vec a, a_normalised, b, b_normalised;  // sums of dz and of dz * normalised x
};

template <class S, bool kGlu>
DMGAN_INLINE GradSums strip_sums(const Strip& strip, const S* grad, Vec grad_mean, const S* a, const S* b,
                                 const Coefficients& of_a, const Coefficients& of_b) {
  GradSums sums{};
  for (int64_t i = 0; i < strip.count; ++i) {
    const int64_t n = strip.valid(i);
    const Vec xa = load_some(a + i * strip.x_step, n);
    const Vec xb = kGlu ? load_some(b + i * strip.x_step, n) : Vec{};
    const Vec dy = keep(load_some(grad + i * strip.y_step, n) + grad_mean, n);
    const GradZ dz = grad_z<S, kGlu>(dy, xa, xb, of_a, of_b);
    sums.a += dz.a;
    sums.a_normalised += dz.a * of_a.normalised(xa);
    if constexpr (kGlu) {
      sums.b += dz.b;
      sums.b_normalised += dz.b * of_b.normalised(xb);
    }
  }
  return sums;
}

// What training subtracts from dz: its mean, and its mean product with the normalised x; zero in evaluation.
struct Centre {
  Vec mean, slope;
  DMGAN_INLINE Vec apply(Vec dz, Vec x, const Coefficients& c) const {
    return c.scale * (dz - mean - c.normalised(x) * slope);
  }
};

template <class S, bool kGlu>
DMGAN_INLINE void strip_backward(const Strip& strip, const S* grad, Vec grad_mean, const S* a, const S* b, S* grad_a,
                                 S* grad_b, const Coefficients& of_a, const Coefficients& of_b, const Centre& centre_a,
                                 const Centre& centre_b) {
  for (int64_t i = 0; i < strip.count; ++i) {
    const int64_t n = strip.valid(i);
    const Vec xa = load_some(a + i * strip.x_step, n);
    const Vec xb = kGlu ? load_some(b + i * strip.x_step, n) : Vec{};
    const GradZ dz = grad_z<S, kGlu>(load_some(grad + i * strip.y_step, n) + grad_mean, xa, xb, of_a, of_b);
    store_some(grad_a + i * strip.x_step, centre_a.apply(dz.a, xa, of_a), n);
    if constexpr (kGlu) store_some(grad_b + i * strip.x_step, centre_b.apply(dz.b, xb, of_b), n);
  }
}

// A call's sizes and per-channel numbers.
struct Call {
  int64_t batch, channels, pixels;
  int64_t outputs;        // channels of y: half of x's with GLU
  int64_t skip_channels;  // 0 with GLU
  bool channels_last;
  std::vector<float> weight, bias, mean, rstd;

  int64_t step() const { return channels_last ? channels : 1; }  // from pixel to pixel in x
  Coefficients at(int64_t c) const { return {splat(mean[c]), splat(rstd[c]), splat(rstd[c] * weight[c]), splat(bias[c])}; }
  DMGAN_INLINE Coefficients from(int64_t c, int64_t n) const {
    const Vec r = load_some(rstd.data() + c, n);
    return {load_some(mean.data() + c, n), r, r * load_some(weight.data() + c, n), load_some(bias.data() + c, n)};
  }
};

std::vector<float> per_channel(const std::optional<Tensor>& x, int64_t channels, float otherwise) {
  if (!x) return std::vector<float>(channels, otherwise);
  return std::vector<float>(data<float>(*x), data<float>(*x) + channels);
}

Call describe(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, bool glu) {
  const int64_t channels = x.size(1), pixels = x.size(2) * x.size(3), outputs = glu ? channels / 2 : channels;
  const bool channels_last = is_channels_last(x) || pixels == 1;  // one pixel is either: vectors of channels are full
  Call call{x.size(0), channels, pixels, outputs, 0, channels_last, {}, {}, {}, {}};
  call.weight = per_channel(weight, channels, 1.0f);
  call.bias = per_channel(bias, channels, 0.0f);
  return call;
}

// NCHW: n pixels of one channel.
Strip along_pixels(int64_t n) {
  const int64_t count = (n + kLanes - 1) / kLanes;
  return {count, kLanes, n - (count - 1) * kLanes, kLanes, kLanes, kLanes};
}

// Channels-last: n channels of `rows` pixels.
Strip along_channels(const Call& call, int64_t rows, int64_t n) {
  return {rows, n, n, call.channels, call.outputs, call.skip_channels};
}

// Sums over a channel: of floats in blocks, of the blocks in doubles.
struct Total {
  double sum = 0, squares = 0;
};

template <class S>
DMGAN_HOT Total channel_moments(const Call& call, const S* x, int64_t c) {
  Total total;
  const Vec shift = splat(static_cast<float>(x[c * call.pixels]));  // keeps a large mean out of the squares
  for (int64_t b = 0; b < call.batch; ++b) {
    const S* plane = x + (b * call.channels + c) * call.pixels;
    for (int64_t first = 0; first < call.pixels; first += kBlock) {
      const Strip strip = along_pixels(std::min(kBlock, call.pixels - first));
      const Moments m = strip_moments(strip, plane + first, shift);
      total.sum += sum(m.sum);
      total.squares += sum(m.squares);
    }
  }
  return total;
}

// Mean and biased variance from sums of x - shift.
void finish_moments(const Total& total, double shift, double count, float* mean, float* var) {
  const double offset = total.sum / count;
  *mean = static_cast<float>(shift + offset);
  *var = static_cast<float>(std::max(total.squares / count - offset * offset, 0.0));
}

template <class S>
DMGAN_HOT void chunk_moments(const Call& call, const S* x, const float* shift, int64_t rows, float* sums) {
  for (int64_t c = 0; c < call.channels; c += kLanes) {
    const int64_t n = std::min(kLanes, call.channels - c);
    const Moments m = strip_moments(along_channels(call, rows, n), x + c, load_some(shift + c, n));
    store_some(sums + c, m.sum, n);
    store_some(sums + call.channels + c, m.squares, n);
  }
}

// Runs f(sample, first pixel, pixels, index) on every channels-last chunk; returns how many there are.
template <class F>
int64_t each_chunk(const Call& call, const F& f) {
  const int64_t chunks = (call.pixels + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, call.batch * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * kChunk;
      f(i / chunks, first, std::min(kChunk, call.pixels - first), i);
    }
  });
  return call.batch * chunks;
}

template <class S>
void statistics(const Call& call, const S* x, float* mean, float* var) {
  const double count = static_cast<double>(call.batch * call.pixels);
  if (!call.channels_last) {
    torch::stable::parallel_for(0, call.channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        finish_moments(channel_moments(call, x, c), static_cast<float>(x[c * call.pixels]), count, mean + c, var + c);
      }
    });
    return;
  }
  std::vector<float> shift(call.channels);
  for (int64_t c = 0; c < call.channels; ++c) shift[c] = static_cast<float>(x[c]);
  const int64_t chunks = call.batch * ((call.pixels + kChunk - 1) / kChunk), row = 2 * call.channels;
  std::vector<float> sums(chunks * row);
  each_chunk(call, [&](int64_t b, int64_t first, int64_t rows, int64_t i) {
    chunk_moments(call, x + (b * call.pixels + first) * call.channels, shift.data(), rows, sums.data() + i * row);
  });
  for (int64_t c = 0; c < call.channels; ++c) {
    Total total;
    for (int64_t i = 0; i < chunks; ++i) {
      total.sum += sums[i * row + c];
      total.squares += sums[i * row + call.channels + c];
    }
    finish_moments(total, shift[c], count, mean + c, var + c);
  }
}

template <class S, bool kGlu>
DMGAN_HOT void forward_channel(const Call& call, const S* x, const S* skip, S* y, float* spatial_mean, int64_t c) {
  const Coefficients of_a = call.at(c), of_b = kGlu ? call.at(c + call.outputs) : Coefficients{};
  for (int64_t b = 0; b < call.batch; ++b) {
    const S* plane_a = x + (b * call.channels + c) * call.pixels;
    const S* plane_b = plane_a + call.outputs * call.pixels;
    const S* plane_skip = kGlu ? nullptr : skip + (b * call.skip_channels + c % call.skip_channels) * call.pixels;
    S* plane_y = y + (b * call.outputs + c) * call.pixels;
    double total = 0;
    for (int64_t at = 0; at < call.pixels; at += kBlock) {
      const Strip strip = along_pixels(std::min(kBlock, call.pixels - at));
      total += sum(strip_forward<S, kGlu>(strip, plane_a + at, plane_b + at, plane_skip + at, plane_y + at, of_a, of_b));
    }
    if (spatial_mean) spatial_mean[b * call.outputs + c] = static_cast<float>(total / call.pixels);
  }
}

template <class S, bool kGlu>
DMGAN_HOT void forward_chunk(const Call& call, const S* x, const S* skip, S* y, int64_t rows, float* sums) {
  for (int64_t c = 0; c < call.outputs; c += kLanes) {
    int64_t n = std::min(kLanes, call.outputs - c);
    if (!kGlu) n = std::min(n, call.skip_channels - c % call.skip_channels);
    const Strip strip = along_channels(call, rows, n);
    const Coefficients of_a = call.from(c, n), of_b = kGlu ? call.from(c + call.outputs, n) : Coefficients{};
    const S* of_skip = kGlu ? nullptr : skip + c % call.skip_channels;
    const Vec total = strip_forward<S, kGlu>(strip, x + c, x + c + call.outputs, of_skip, y + c, of_a, of_b);
    store_some(sums + c, total, n);
    c -= kLanes - n;  // a vector ends where skip's channels begin again
  }
}

template <class S, bool kGlu>
void forward(const Call& call, const S* x, const S* skip, S* y, float* spatial_mean) {
  if (!call.channels_last) {
    torch::stable::parallel_for(0, call.outputs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) forward_channel<S, kGlu>(call, x, skip, y, spatial_mean, c);
    });
    return;
  }
  const int64_t chunks = (call.pixels + kChunk - 1) / kChunk;
  std::vector<float> sums(call.batch * chunks * call.outputs);
  each_chunk(call, [&](int64_t b, int64_t first, int64_t rows, int64_t i) {
    const int64_t pixel = b * call.pixels + first;
    forward_chunk<S, kGlu>(call, x + pixel * call.channels, kGlu ? nullptr : skip + pixel * call.skip_channels,
                           y + pixel * call.outputs, rows, sums.data() + i * call.outputs);
  });
  if (!spatial_mean) return;
  for (int64_t b = 0; b < call.batch; ++b) {
    for (int64_t c = 0; c < call.outputs; ++c) {
      double total = 0;
      for (int64_t i = 0; i < chunks; ++i) total += sums[(b * chunks + i) * call.outputs + c];
      spatial_mean[b * call.outputs + c] = static_cast<float>(total / call.pixels);
    }
  }
}

template <class S, bool kGlu>
DMGAN_HOT void channel_sums(const Call& call, const S* grad, const float* grad_mean, const S* x, float* sums,
                               int64_t c) {
  const Coefficients of_a = call.at(c), of_b = kGlu ? call.at(c + call.outputs) : Coefficients{};
  double totals[4] = {};
  for (int64_t b = 0; b < call.batch; ++b) {
    const S* plane_a = x + (b * call.channels + c) * call.pixels;
    const S* plane_b = plane_a + call.outputs * call.pixels;
    const S* plane_grad = grad + (b * call.outputs + c) * call.pixels;
    const Vec of_mean = splat(grad_mean ? grad_mean[b * call.outputs + c] / call.pixels : 0.0f);
    for (int64_t at = 0; at < call.pixels; at += kBlock) {
      const Strip strip = along_pixels(std::min(kBlock, call.pixels - at));
      const GradSums s = strip_sums<S, kGlu>(strip, plane_grad + at, of_mean, plane_a + at, plane_b + at, of_a, of_b);
      totals[0] += sum(s.a);
      totals[1] += sum(s.a_normalised);
      if (kGlu) totals[2] += sum(s.b);
      if (kGlu) totals[3] += sum(s.b_normalised);
    }
  }
  for (int k = 0; k < (kGlu ? 2 : 1); ++k) {
    sums[c + k * call.outputs] = static_cast<float>(totals[2 * k]);
    sums[call.channels + c + k * call.outputs] = static_cast<float>(totals[2 * k + 1]);
  }
}

// The centre of channels c ... c + n - 1, in all lanes of NCHW's one channel.
DMGAN_INLINE Centre centre_at(const Call& call, const float* sums, float scale, int64_t c) {
  return {splat(sums[c] * scale), splat(sums[call.channels + c] * scale)};
}

DMGAN_INLINE Centre centre_from(const Call& call, const float* sums, float scale, int64_t c, int64_t n) {
  return {load_some(sums + c, n) * scale, load_some(sums + call.channels + c, n) * scale};
}

template <class S, bool kGlu>
DMGAN_HOT void backward_channel(const Call& call, const S* grad, const float* grad_mean, const S* x,
                                   const float* sums, float scale, S* grad_x, int64_t c) {
  const int64_t half = kGlu ? call.outputs : 0;
  const Coefficients of_a = call.at(c), of_b = call.at(c + half);
  const Centre centre_a = centre_at(call, sums, scale, c), centre_b = centre_at(call, sums, scale, c + half);
  for (int64_t b = 0; b < call.batch; ++b) {
    const int64_t plane_a = (b * call.channels + c) * call.pixels, plane_b = plane_a + half * call.pixels;
    const S* plane_grad = grad + (b * call.outputs + c) * call.pixels;
    const Vec of_mean = splat(grad_mean ? grad_mean[b * call.outputs + c] / call.pixels : 0.0f);
    strip_backward<S, kGlu>(along_pixels(call.pixels), plane_grad, of_mean, x + plane_a, x + plane_b, grad_x + plane_a,
                            grad_x + plane_b, of_a, of_b, centre_a, centre_b);
  }
}

template <class S, bool kGlu>
DMGAN_HOT void chunk_sums(const Call& call, const S* grad, const float* grad_mean, const S* x, int64_t rows,
                             float* sums) {
  for (int64_t c = 0; c < call.outputs; c += kLanes) {
    const int64_t n = std::min(kLanes, call.outputs - c);
    const Strip strip = along_channels(call, rows, n);
    const Vec of_mean = grad_mean ? load_some(grad_mean + c, n) / static_cast<float>(call.pixels) : Vec{};
    const Coefficients of_a = call.from(c, n), of_b = kGlu ? call.from(c + call.outputs, n) : Coefficients{};
    const GradSums s = strip_sums<S, kGlu>(strip, grad + c, of_mean, x + c, x + c + call.outputs, of_a, of_b);
    store_some(sums + c, s.a, n);
    store_some(sums + call.channels + c, s.a_normalised, n);
    if (kGlu) store_some(sums + call.outputs + c, s.b, n);
    if (kGlu) store_some(sums + call.channels + call.outputs + c, s.b_normalised, n);
  }
}

template <class S, bool kGlu>
DMGAN_HOT void backward_chunk(const Call& call, const S* grad, const float* grad_mean, const S* x,
                                 const float* sums, float scale, S* grad_x, int64_t rows) {
  const int64_t half = kGlu ? call.outputs : 0;
  for (int64_t c = 0; c < call.outputs; c += kLanes) {
    const int64_t n = std::min(kLanes, call.outputs - c);
    const Strip strip = along_channels(call, rows, n);
    const Vec of_mean = grad_mean ? load_some(grad_mean + c, n) / static_cast<float>(call.pixels) : Vec{};
    strip_backward<S, kGlu>(strip, grad + c, of_mean, x + c, x + c + half, grad_x + c, grad_x + c + half,
                            call.from(c, n), call.from(c + half, n), centre_from(call, sums, scale, c, n),
                            centre_from(call, sums, scale, c + half, n));
  }
}

// sums [2, channels]: of dz, and of dz times the normalised x.
template <class S, bool kGlu>
void reduce(const Call& call, const S* grad, const float* grad_mean, const S* x, float* sums) {
  if (!call.channels_last) {
    torch::stable::parallel_for(0, call.outputs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) channel_sums<S, kGlu>(call, grad, grad_mean, x, sums, c);
    });
    return;
  }
  const int64_t chunks = call.batch * ((call.pixels + kChunk - 1) / kChunk), row = 2 * call.channels;
  std::vector<float> parts(chunks * row);
  each_chunk(call, [&](int64_t b, int64_t first, int64_t rows, int64_t i) {
    const int64_t pixel = b * call.pixels + first;
    chunk_sums<S, kGlu>(call, grad + pixel * call.outputs, grad_mean ? grad_mean + b * call.outputs : nullptr,
                        x + pixel * call.channels, rows, parts.data() + i * row);
  });
  for (int64_t k = 0; k < row; ++k) {
    double total = 0;
    for (int64_t i = 0; i < chunks; ++i) total += parts[i * row + k];
    sums[k] = static_cast<float>(total);
  }
}

// Without `given` sums, computes them into `sums` first; NCHW does both for a channel while it is in cache.
template <class S, bool kGlu>
void backward(const Call& call, const S* grad, const float* grad_mean, const S* x, const float* given, float* sums,
              float scale, S* grad_x) {
  if (!call.channels_last) {
    torch::stable::parallel_for(0, call.outputs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        channel_sums<S, kGlu>(call, grad, grad_mean, x, sums, c);
        backward_channel<S, kGlu>(call, grad, grad_mean, x, given ? given : sums, scale, grad_x, c);
      }
    });
    return;
  }
  reduce<S, kGlu>(call, grad, grad_mean, x, sums);
  each_chunk(call, [&](int64_t b, int64_t first, int64_t rows, int64_t) {
    const int64_t pixel = b * call.pixels + first;
    backward_chunk<S, kGlu>(call, grad + pixel * call.outputs, grad_mean ? grad_mean + b * call.outputs : nullptr,
                            x + pixel * call.channels, given ? given : sums, scale, grad_x + pixel * call.channels,
                            rows);
  });
}

Tensor per_channel_like(const Tensor& x, int64_t count) {
  return torch::stable::new_empty(x, {count}, torch::headeronly::ScalarType::Float);
}

std::tuple<Tensor, Tensor> batch_norm_glu_statistics(const Tensor& x) {
  const Call call = describe(x, std::nullopt, std::nullopt, false);
  Tensor mean = per_channel_like(x, call.channels), var = per_channel_like(x, call.channels);
  DMGAN_FLOAT_TYPES(x, statistics<S>(call, data<S>(x), mutable_data<float>(mean), mutable_data<float>(var)));
  return {mean, var};
}

// Statistics and result of one channel pair while it is in cache.
template <class S, bool kGlu>
void forward_training(Call& call, const S* x, const S* skip, S* y, float* mean, float* var, float eps,
                      float* spatial_mean) {
  const double count = static_cast<double>(call.batch * call.pixels);
  torch::stable::parallel_for(0, call.outputs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t each = c; each < call.channels; each += call.outputs) {
        const double shift = static_cast<float>(x[each * call.pixels]);
        finish_moments(channel_moments(call, x, each), shift, count, mean + each, var + each);
        call.mean[each] = mean[each];
        call.rstd[each] = 1.0f / std::sqrt(var[each] + eps);
      }
      forward_channel<S, kGlu>(call, x, skip, y, spatial_mean, c);
    }
  });
}

template <class S>
void forward_any(Call& call, const Tensor& x, const std::optional<Tensor>& skip, Tensor& y, bool training, Tensor& mean,
                 Tensor& var, float eps, float* spatial_mean) {
  const S* from = data<S>(x);
  const S* of_skip = skip ? data<S>(*skip) : nullptr;
  S* to = mutable_data<S>(y);
  float *means = mutable_data<float>(mean), *variances = mutable_data<float>(var);
  call.mean.resize(call.channels);
  call.rstd.resize(call.channels);
  if (training && !call.channels_last) {
    if (skip) return forward_training<S, false>(call, from, of_skip, to, means, variances, eps, spatial_mean);
    return forward_training<S, true>(call, from, of_skip, to, means, variances, eps, spatial_mean);
  }
  if (training) statistics<S>(call, from, means, variances);
  for (int64_t c = 0; c < call.channels; ++c) {
    call.mean[c] = means[c];
    call.rstd[c] = 1.0f / std::sqrt(variances[c] + eps);
  }
  if (skip) return forward<S, false>(call, from, of_skip, to, spatial_mean);
  forward<S, true>(call, from, of_skip, to, spatial_mean);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_norm_glu_forward(
    const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& skip, const std::optional<Tensor>& given_mean, const std::optional<Tensor>& given_var,
    double eps, bool want_mean) {
  Call call = describe(x, weight, bias, !skip);
  if (skip) call.skip_channels = skip->size(1);
  Tensor y = empty_feature_map(x, call.outputs, x.size(2), x.size(3));
  Tensor mean = given_mean ? torch::stable::clone(*given_mean) : per_channel_like(x, call.channels);
  Tensor var = given_var ? torch::stable::clone(*given_var) : per_channel_like(x, call.channels);
  Tensor rstd = per_channel_like(x, call.channels);
  const auto wide = torch::headeronly::ScalarType::Float;
  Tensor spatial_mean = want_mean ? torch::stable::new_empty(x, {call.batch, call.outputs}, wide)
                                  : torch::stable::new_empty(x, {0}, wide);
  DMGAN_FLOAT_TYPES(x, forward_any<S>(call, x, skip, y, !given_mean, mean, var, static_cast<float>(eps),
                                      want_mean ? mutable_data<float>(spatial_mean) : nullptr));
  std::copy(call.rstd.begin(), call.rstd.end(), mutable_data<float>(rstd));
  return {y, mean, var, rstd, spatial_mean};
}

Call describe_backward(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                       const Tensor& mean, const Tensor& rstd, bool glu) {
  Call call = describe(x, weight, bias, glu);
  call.mean = per_channel(mean, call.channels, 0.0f);
  call.rstd = per_channel(rstd, call.channels, 0.0f);
  return call;
}

Tensor batch_norm_glu_reduce(const Tensor& grad_y, const std::optional<Tensor>& grad_mean, const Tensor& x,
                             const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const Tensor& mean,
                             const Tensor& rstd, bool glu) {
  const Call call = describe_backward(x, weight, bias, mean, rstd, glu);
  Tensor sums = torch::stable::new_empty(x, {2, call.channels}, torch::headeronly::ScalarType::Float);
  const float* of_mean = grad_mean ? data<float>(*grad_mean) : nullptr;
  float* to = mutable_data<float>(sums);
  DMGAN_FLOAT_TYPES(x, glu ? reduce<S, true>(call, data<S>(grad_y), of_mean, data<S>(x), to)
                           : reduce<S, false>(call, data<S>(grad_y), of_mean, data<S>(x), to));
  return sums;
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_glu_backward(const Tensor& grad_y, const std::optional<Tensor>& grad_mean,
                                                           const Tensor& x, const std::optional<Tensor>& weight,
                                                           const std::optional<Tensor>& bias, const Tensor& mean,
                                                           const Tensor& rstd, bool glu, bool training,
                                                           const std::optional<Tensor>& sums, double count) {
  const Call call = describe_backward(x, weight, bias, mean, rstd, glu);
  Tensor grad_x = empty_feature_map(x, call.channels, x.size(2), x.size(3));
  std::vector<float> own(2 * call.channels);
  const float* of_mean = grad_mean ? data<float>(*grad_mean) : nullptr;
  const float* given = sums ? data<float>(*sums) : nullptr;
  const float scale = training ? static_cast<float>(1.0 / count) : 0.0f;
  DMGAN_FLOAT_TYPES(x, const S* dy = data<S>(grad_y); S* dx = mutable_data<S>(grad_x);
                    glu ? backward<S, true>(call, dy, of_mean, data<S>(x), given, own.data(), scale, dx)
                        : backward<S, false>(call, dy, of_mean, data<S>(x), given, own.data(), scale, dx));
  Tensor grad_weight = per_channel_like(x, call.channels), grad_bias = per_channel_like(x, call.channels);
  std::copy_n(own.data(), call.channels, mutable_data<float>(grad_bias));
  std::copy_n(own.data() + call.channels, call.channels, mutable_data<float>(grad_weight));
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, batch_norm_glu_statistics)
DMGAN_REGISTER(DMGAN_CPU, CPU, batch_norm_glu_forward)
DMGAN_REGISTER(DMGAN_CPU, CPU, batch_norm_glu_reduce)
DMGAN_REGISTER(DMGAN_CPU, CPU, batch_norm_glu_backward)
