// The kernels' internals on a processor that Python and PyTorch don't run on here: `make cross-test` builds this for ARM
// and runs it in an emulator. Tests from Python (test_internals.py) ask more, on the levels of this machine.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "kernels.h"
#include "../../csrc/cpu/few_results.h"

namespace {

using namespace kernels;
int failures = 0;

void expect(bool holds, const std::string& what) {
  if (!holds) std::printf("FAILED %s\n", what.c_str());
  failures += holds ? 0 : 1;
}

std::mt19937 generator(0);

std::vector<float> normal(int64_t count) {
  std::normal_distribution<float> distribution;
  std::vector<float> x(count);
  for (float& each : x) each = distribution(generator);
  return x;
}

// Root of the mean square of the error, over that of the truth.
double error(const std::vector<float>& found, const std::vector<double>& truth) {
  if (found.size() != truth.size()) return INFINITY;
  double wrong = 0, whole = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    wrong += (found[i] - truth[i]) * (found[i] - truth[i]);
    whole += truth[i] * truth[i];
  }
  return std::sqrt(wrong / whole);
}

// ---------------------------------------------------------------------------------------------------------- vectors

constexpr double kUlp = 1.1920929e-7;

void vector_functions() {
  double worst_exp = 0, worst_log = 0, worst_sigmoid = 0;
  for (float x = -87.2f; x < 88.0f; x += 0.0173f) {
    const double truth = std::exp(static_cast<double>(x)), of_x = dmgan::exp(splat(x))[kLanes - 1];
    worst_exp = std::max(worst_exp, std::fabs(of_x - truth) / (truth * kUlp));
    const double open = 1 / (1 + std::exp(-static_cast<double>(std::max(x, -87.0f))));
    worst_sigmoid = std::max(worst_sigmoid, std::fabs(sigmoid(splat(x))[0] - open) / (open * kUlp));
  }
  for (float x = 1e-30f; x < 1e30f; x *= 1.0037f) {
    const double truth = std::log(static_cast<double>(x)), of_x = dmgan::log(splat(x))[kLanes - 1];
    worst_log = std::max(worst_log, std::fabs(of_x - truth) / std::max(std::fabs(truth) * kUlp, kUlp / 2));
  }
  expect(worst_exp <= 2, "exp: " + std::to_string(worst_exp) + " units in the last place");
  expect(worst_log <= 2, "log: " + std::to_string(worst_log) + " units in the last place");
  expect(worst_sigmoid <= 4, "sigmoid: " + std::to_string(worst_sigmoid) + " units in the last place");
  expect(dmgan::exp(splat(-INFINITY))[0] == 0 && dmgan::exp(splat(0.0f))[0] == 1, "exp of -inf and 0");
  expect(dmgan::log(splat(0.0f))[0] == -INFINITY && dmgan::log(splat(1.0f))[0] == 0, "log of 0 and 1");
}

// Every pattern of sixteen bits is read as PyTorch's scalar type reads it, and comes back; so do floats between them.
template <class S>
void sixteen_bits(const std::string& name) {
  bool read = true, back = true, rounded = true;
  for (uint32_t pattern = 0; pattern < 1 << 16; ++pattern) {
    S in[kLanes], out[kLanes];
    const uint16_t raw = static_cast<uint16_t>(pattern);
    for (S& each : in) std::memcpy(&each, &raw, 2);
    const Vec x = load(in);
    const float truth = static_cast<float>(in[0]);
    read &= std::isnan(truth) ? std::isnan(x[1]) : x[1] == truth;
    store(out, x);
    uint16_t again;
    std::memcpy(&again, &out[1], 2);
    back &= std::isnan(truth) ? std::isnan(static_cast<float>(out[1])) : again == raw;
    if (std::isnan(truth) || std::isinf(truth)) continue;
    for (const float part : {0.25f, 0.5f, 0.75f}) {  // of the way to the next number
      const uint16_t next = static_cast<uint16_t>(raw + 1);
      S neighbour;
      std::memcpy(&neighbour, &next, 2);
      const float between = truth + part * (static_cast<float>(neighbour) - truth);
      if (!std::isfinite(between)) continue;
      store(out, splat(between));
      rounded &= static_cast<float>(out[kLanes - 1]) == static_cast<float>(static_cast<S>(between));
    }
  }
  expect(read, name + ": a pattern is read wrong");
  expect(back, name + ": a pattern does not come back");
  expect(rounded, name + ": a float is not rounded to the nearest");
}

template <int kCount>
void lanes_summed() {
  Vec x[kCount];
  float totals[kCount], truth[kCount] = {};
  for (int i = 0; i < kCount; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      x[i][lane] = static_cast<float>((i + 3) * (lane + 1) * (lane + 2) % 101);
      truth[i] += x[i][lane];
    }
  }
  store_sums<kCount>(x, totals);
  expect(std::equal(totals, totals + kCount, truth), "sums of " + std::to_string(kCount) + " vectors' lanes");
}

template <int kStep>
void interleaved() {
  float x[kStep * kLanes], back[kStep * kLanes];
  for (int i = 0; i < kStep * kLanes; ++i) x[i] = static_cast<float>(i);
  Vec s[kStep];
  deinterleave<kStep>(x, s);
  bool right = true;
  for (int i = 0; i < kStep * kLanes; ++i) right &= s[i % kStep][i / kStep] == x[i];
  interleave<kStep>(s, back);
  expect(right && std::equal(x, x + kStep * kLanes, back), "interleaving " + std::to_string(kStep) + " vectors");
}

void transposed() {
  Vec rows[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    for (int64_t j = 0; j < kLanes; ++j) rows[i][j] = static_cast<float>(i * kLanes + j);
  }
  transpose(rows);
  bool right = true;
  for (int64_t i = 0; i < kLanes; ++i) {
    for (int64_t j = 0; j < kLanes; ++j) right &= rows[i][j] == static_cast<float>(j * kLanes + i);
  }
  expect(right, "transposing");
}

// --------------------------------------------------------------------------------------------------------- products

void products(int64_t rows, int64_t columns, int64_t depth) {
  const auto a = normal(rows * depth), b = normal(depth * columns);
  std::vector<float> c(rows * columns), d(rows * columns);
  std::vector<double> truth(rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < columns; ++n) {
      for (int64_t k = 0; k < depth; ++k) truth[r * columns + n] += static_cast<double>(a[r * depth + k]) * b[k * columns + n];
    }
  }
  multiply<false>(rows, columns, depth, {a.data(), depth, 1}, b.data(), columns, c.data(), columns);
  const std::string sizes = std::to_string(rows) + " x " + std::to_string(columns) + " x " + std::to_string(depth);
  expect(error(c, truth) < 1e-6, "product " + sizes);
  multiply<true>(rows, columns, depth, {a.data(), depth, 1}, b.data(), columns, c.data(), columns);
  for (double& each : truth) each *= 2;
  expect(error(c, truth) < 1e-6, "product added to another " + sizes);
  if (depth % kLanes) return;
  std::vector<float> turned(columns * depth);
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t n = 0; n < columns; ++n) turned[n * depth + k] = 2 * b[k * columns + n];
  }
  dots(rows, columns, 1, depth, a.data(), 0, turned.data(), 0, d.data(), columns);
  expect(error(d, truth) < 1e-6, "dot products " + sizes);
}

// ----------------------------------------------------------------------------------------------------- convolutions

// What a direct convolution adds up: function(y, x, w, indices of y, x and w) for all taps inside the image.
template <class F, class Function>
void each_tap(const Sizes& s, const Function& function) {
  using H = typename F::Horizontal;
  constexpr int64_t kStride = std::max(H::kStep / H::kResults, 1), kScale = std::max(H::kResults / H::kStep, 1);
  const Pictures<F> p(s);
  const int64_t height = p.y.height, width = p.y.width;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t o = 0; o < s.outputs; ++o) {
      for (int64_t i = 0; i < s.inputs; ++i) {
        for (int64_t r = 0; r < height; ++r) {
          for (int64_t c = 0; c < width; ++c) {
            for (int tap = 0; tap < F::kTaps; ++tap) {
              const int64_t row = r * kStride + tap / H::kTaps - 1, column = c * kStride + tap % H::kTaps - 1;
              if (row < 0 || row >= s.height * kScale || column < 0 || column >= s.width * kScale) continue;
              function(((b * s.outputs + o) * height + r) * width + c,
                       ((b * s.inputs + i) * s.height + row / kScale) * s.width + column / kScale,
                       (o * s.inputs + i) * F::kTaps + tap);
            }
          }
        }
      }
    }
  }
}

// Inputs of a convolution, its results, and the gradients for a gradient of the results, as they truly are.
template <class F>
struct Truth {
  std::vector<float> x, weight, grad;
  std::vector<double> y, grad_x, grad_weight;
  explicit Truth(const Sizes& s) {
    const Pictures<F> p(s);
    x = normal(s.batch * s.inputs * p.x.pixels());
    weight = normal(s.outputs * s.inputs * F::kTaps);
    grad = normal(s.batch * s.outputs * p.y.pixels());
    y.resize(grad.size()), grad_x.resize(x.size()), grad_weight.resize(weight.size());
    each_tap<F>(s, [&](int64_t at_y, int64_t at_x, int64_t at_weight) {
      y[at_y] += static_cast<double>(x[at_x]) * weight[at_weight];
      grad_x[at_x] += static_cast<double>(grad[at_y]) * weight[at_weight];
      grad_weight[at_weight] += static_cast<double>(grad[at_y]) * x[at_x];
    });
  }
};

std::string shown(const Sizes& s) { return " of " + std::to_string(s.height) + " x " + std::to_string(s.width); }

template <class F>
void convolutions(const std::string& name, const Sizes& s) {
  const Truth<F> truth(s);
  std::vector<float> found[2];
  for (const int64_t shares : {1, 3}) {
    kernels::parts = shares;
    found[shares == 3] = forward<F>(s, truth.x.data(), truth.weight.data());
    expect(error(gradient_of_x<F>(s, truth.grad.data(), truth.weight.data()), truth.grad_x) < 4e-6,
           name + "'s gradient of x" + shown(s));
    expect(error(gradient_of_weight<F>(s, truth.x.data(), truth.grad.data()), truth.grad_weight) < 4e-6,
           name + "'s gradient of the weight" + shown(s));
  }
  expect(error(found[0], truth.y) < 4e-6, name + shown(s));
  expect(found[0] == found[1], name + shown(s) + " has other bits when it is shared out");
}

template <class F>
void convolutions(const std::string& name) {
  const int64_t times = std::is_same_v<F, DownDown> ? 2 : 1;  // strided: of even sizes
  for (const auto& [height, width] : {std::pair{1, 1}, {3, 5}, {4, 8}, {7, 41}, {18, 33}}) {
    convolutions<F>(name, {2, 5, 9, times * height, times * width});
  }
  convolutions<F>(name, {1, 135, 70, times * 5, times * 6});
}

// A convolution with the batch norm after it, its GLU or + a skip that stands for two copies.
template <class F, bool kSkips>
void folded(const std::string& name, const Sizes& s) {
  const Truth<F> truth(s);
  const Convolution<F> call = {Pictures<F>(s).x, Pictures<F>(s).y, Pictures<F>(s).tiling};
  const int64_t half = s.outputs / 2, pixels = call.y.pixels();
  const auto mean = normal(s.outputs), scale = normal(s.outputs), bias = normal(s.outputs);
  const auto skip = normal(s.batch * half * pixels);
  std::vector<double> skipped(truth.y.size()), gated(truth.y.size() / 2);
  for (int64_t i = 0; i < s.batch * half * pixels; ++i) {
    const int64_t channel = i / pixels % half, at = i + i / (half * pixels) * half * pixels, at_gate = at + half * pixels;
    const double z = (truth.y[at] - mean[channel]) * scale[channel] + bias[channel];
    const double gate = (truth.y[at_gate] - mean[half + channel]) * scale[half + channel] + bias[half + channel];
    gated[i] = z / (1 + std::exp(-gate));
    skipped[at] = z + skip[i];
    skipped[at_gate] = gate + skip[i];
  }
  const Norm norm{mean.data(), scale.data(), bias.data()};
  const auto found = [&](const auto& finish) {
    return convolved<F>(call, truth.x.data(), truth.weight.data(), false, false, finish);
  };
  expect(error(found(Gated{norm}), gated) < 4e-6, name + " with batch norm and GLU" + shown(s));
  if constexpr (kSkips) {
    expect(error(found(Skipped{norm, skip.data(), half}), skipped) < 4e-6, name + " with batch norm and skip" + shown(s));
  }
}

template <class F, bool kSkips>
void folded(const std::string& name) {
  for (const auto& [height, width] : {std::pair{1, 1}, {3, 5}, {7, 41}}) {
    folded<F, kSkips>(name, {2, 5, 12, height, width});
  }
  folded<F, kSkips>(name, {1, 35, 150, 9, 10});
}

// The gradient of the weight of an image head.
void few_results() {
  for (const auto& [height, width] : {std::pair{1, 1}, {3, 5}, {18, 33}, {37, 64}}) {
    const Sizes s = {2, 7, 3, height, width};
    const Truth<TwoTwo> truth(s);
    std::vector<float> found(truth.weight.size());
    few_weight_gradient(Pictures<TwoTwo>(s).x, truth.x.data(), s.outputs, truth.grad.data(), found.data());
    expect(error(found, truth.grad_weight) < 1e-6, "few results' gradient of the weight" + shown(s));
  }
}

}  // namespace

int main() {
  vector_functions();
  sixteen_bits<BFloat16>("bfloat16");
  sixteen_bits<Half>("half");
  lanes_summed<1>();
  lanes_summed<2>();
  lanes_summed<4>();
  lanes_summed<9>();
  lanes_summed<24>();
  interleaved<2>();
  interleaved<4>();
  transposed();
  for (const int64_t rows : {1, 3, 7, 13, 30}) {
    for (const int64_t vectors : {1, 2, 3, 6}) products(rows, vectors * kLanes, rows == 7 ? 3 * kLanes : 19);
  }
  convolutions<TwoTwo>("F(2 x 2)");
  convolutions<TwoFour>("F(2 x 4)");
  convolutions<FourFour>("F(4 x 4)");
  convolutions<UpUp>("up-sampling convolution");
  convolutions<UpPairs>("up-sampling convolution in pairs");
  convolutions<DownDown>("strided convolution");
  folded<TwoTwo, true>("F(2 x 2)");
  folded<TwoFour, true>("F(2 x 4)");
  folded<UpUp, false>("up-sampling convolution");
  folded<UpPairs, false>("up-sampling convolution in pairs");
  few_results();
  if (failures == 0) std::printf("passed on vectors of %lld floats\n", static_cast<long long>(kLanes));
  return failures > 0;
}
