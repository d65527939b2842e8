// The kernels' internals on a processor that Python and PyTorch don't run on here: `make cross-test` builds this for ARM
// and runs it in an emulator. Tests from Python (test_internals.py) ask more, on the levels of this machine.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "kernels.h"

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

// What a direct convolution adds up: function(y, x, w, indices of y, x and w) for all taps inside the picture.
template <class F, class Function>
void each_tap(const Sizes& s, const Function& function) {
  const Pictures<F> p(s);
  const int64_t scale = Pictures<F>::of_y(1), height = p.y.height, width = p.y.width;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t o = 0; o < s.outputs; ++o) {
      for (int64_t i = 0; i < s.inputs; ++i) {
        for (int64_t r = 0; r < height; ++r) {
          for (int64_t c = 0; c < width; ++c) {
            for (int tap = 0; tap < 9; ++tap) {
              const int64_t row = r + tap / 3 - 1, column = c + tap % 3 - 1;
              if (row < 0 || row >= height || column < 0 || column >= width) continue;
              function(((b * s.outputs + o) * height + r) * width + c,
                       ((b * s.inputs + i) * s.height + row / scale) * s.width + column / scale,
                       (o * s.inputs + i) * 9 + tap);
            }
          }
        }
      }
    }
  }
}

template <class F>
void convolutions(const std::string& name, const Sizes& s) {
  const Pictures<F> p(s);
  const int64_t of_x = s.batch * s.inputs * p.x.pixels(), of_y = s.batch * s.outputs * p.y.pixels();
  const auto x = normal(of_x), weight = normal(s.outputs * s.inputs * 9), grad = normal(of_y);
  std::vector<double> y(of_y), grad_x(of_x), grad_weight(weight.size());
  each_tap<F>(s, [&](int64_t at_y, int64_t at_x, int64_t at_weight) {
    y[at_y] += static_cast<double>(x[at_x]) * weight[at_weight];
    grad_x[at_x] += static_cast<double>(grad[at_y]) * weight[at_weight];
    grad_weight[at_weight] += static_cast<double>(grad[at_y]) * x[at_x];
  });
  const std::string sizes = " of " + std::to_string(s.height) + " x " + std::to_string(s.width);
  std::vector<float> found[2];
  for (const int64_t shares : {1, 3}) {
    kernels::parts = shares;
    found[shares == 3] = forward<F>(s, x.data(), weight.data());
    expect(error(gradient_of_x<F>(s, grad.data(), weight.data()), grad_x) < 4e-6, name + "'s gradient of x" + sizes);
    expect(error(gradient_of_weight<F>(s, x.data(), grad.data()), grad_weight) < 4e-6,
           name + "'s gradient of the weight" + sizes);
  }
  expect(error(found[0], y) < 4e-6, name + sizes);
  expect(found[0] == found[1], name + sizes + " has other bits when it is shared out");
}

template <class F>
void convolutions(const std::string& name) {
  for (const auto& [height, width] : {std::pair{1, 1}, {3, 5}, {4, 8}, {7, 41}, {18, 33}}) {
    convolutions<F>(name, {2, 5, 9, height, width});
  }
  convolutions<F>(name, {1, 135, 70, 5, 6});
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
  if (failures == 0) std::printf("passed on vectors of %lld floats\n", static_cast<long long>(kLanes));
  return failures > 0;
}
