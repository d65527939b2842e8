// The vector exponential and logarithm are within two units in the last place, everywhere the kernels use them; sums of
// several vectors' lanes land in order.
#include "../../csrc/cpu/simd.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace {

constexpr double kUlp = 1.1920929e-7;

float lane(dmgan::Vec (*function)(dmgan::Vec), float x) { return function(dmgan::splat(x))[3]; }
dmgan::Vec exponential(dmgan::Vec x) { return dmgan::exp(x); }
dmgan::Vec logarithm(dmgan::Vec x) { return dmgan::log(x); }

// Sums of small integers, which are exact in any order.
template <int kCount>
bool sums_are_in_order() {
  dmgan::Vec x[kCount];
  float expected[kCount] = {};
  for (int i = 0; i < kCount; ++i) {
    for (int lane = 0; lane < dmgan::kLanes; ++lane) {
      x[i][lane] = static_cast<float>((i + 3) * (lane + 1) * (lane + 2) % 101);
      expected[i] += x[i][lane];
    }
  }
  const dmgan::Vec sums = dmgan::sums_of<kCount>(x);
  for (int i = 0; i < kCount; ++i) {
    if (sums[i] != expected[i]) return false;
  }
  return true;
}

}  // namespace

int main() {
  double worst_exp = 0, worst_log = 0;
  for (float x = -87.2f; x < 88.0f; x += 0.00173f) {
    const double truth = std::exp(static_cast<double>(x));
    worst_exp = std::max(worst_exp, std::fabs(lane(exponential, x) - truth) / (truth * kUlp));
  }
  for (float x = 1e-30f; x < 1e30f; x *= 1.00037f) {
    const double truth = std::log(static_cast<double>(x));
    worst_log = std::max(worst_log, std::fabs(lane(logarithm, x) - truth) / std::max(std::fabs(truth) * kUlp, kUlp / 2));
  }
  const bool edges = lane(exponential, -88.0f) == 0.0f && lane(exponential, -INFINITY) == 0.0f &&
                     lane(logarithm, 0.0f) == -INFINITY && lane(exponential, 0.0f) == 1.0f;
  if (worst_exp > 2 || worst_log > 2 || !edges) {
    std::printf("exp %.2f ulp, log %.2f ulp, edges %s\n", worst_exp, worst_log, edges ? "right" : "wrong");
    return 1;
  }
  if (!sums_are_in_order<16>() || !sums_are_in_order<8>() || !sums_are_in_order<1>()) {
    std::printf("sums of lanes are not in order\n");
    return 1;
  }
  return 0;
}
