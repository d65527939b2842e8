// upsample_conv3x3 against double loops over the upsampled map: odd sizes, several tiles and blocks of channels,
// both layouts, whole packs and single elements.
#include "check.h"
#include "upsample_conv3x3.cuh"

namespace {

using check::Layout;
using Doubles = std::vector<double>;

struct Case {
  int batch, in_channels, out_channels, height, width;
  Layout layout = Layout::kNchw;
};

struct Truth {
  Doubles y, grad_x, grad_weight;
};

template <class S>
Truth truth(const Case& size, const check::Map<S>& x, const check::Buffer<S>& weight, const check::Map<S>& grad_y) {
  const auto [B, I, O, H, W, layout] = size;
  Truth result{Doubles(B * O * 4 * H * W), Doubles(B * I * H * W), Doubles(O * I * 9)};
  for (int b = 0; b < B; ++b) {
    for (int o = 0; o < O; ++o) {
      for (int row = 0; row < 2 * H; ++row) {
        for (int column = 0; column < 2 * W; ++column) {
          const int at = row * 2 * W + column;
          const double grad = grad_y(b, o, at);
          for (int k = 0; k < 9; ++k) {
            const int r = row + k / 3 - 1, c = column + k % 3 - 1;
            if (r < 0 || r >= 2 * H || c < 0 || c >= 2 * W) continue;
            const int pixel = r / 2 * W + c / 2;
            for (int i = 0; i < I; ++i) {
              const double w = static_cast<float>(weight[(o * I + i) * 9 + k]), value = x(b, i, pixel);
              result.y[(b * O + o) * 4 * H * W + at] += w * value;
              result.grad_x[(b * I + i) * H * W + pixel] += w * grad;
              result.grad_weight[(o * I + i) * 9 + k] += value * grad;
            }
          }
        }
      }
    }
  }
  return result;
}

template <class S>
void test(const Case& size, bool traffic = false) {
  const auto [B, I, O, H, W, layout] = size;
  const std::string name = "upsample_conv3x3 " + std::string(check::kName<S>) + " [" + std::to_string(B) + ", " +
                           std::to_string(I) + " -> " + std::to_string(O) + ", " + std::to_string(H) + ", " +
                           std::to_string(W) + "], layout " + std::to_string(static_cast<int>(layout)) + ": ";
  const check::Map<S> x = check::feature_map<S>(layout, B, I, H * W, 1.0f);
  const check::Map<S> grad_y = check::feature_map<S>(layout, B, O, 4 * H * W, 1.0f);
  const auto weight = check::normal<S>(O * I * 9, 1.0f / std::sqrt(9.0f * I));
  const Truth true_results = truth<S>(size, x, weight, grad_y);
  const dmgan::UpsampleConv3x3 a{B, I, O, H, W, layout == Layout::kChannelsLast};
  const double bar = 2 * check::kTolerance<S>;  // folded taps are rounded, too
  const auto folded = [&] { return check::nans<S>(dmgan::upsample_conv3x3_folded_size(a)); };

  auto y = check::dense_output<S>(layout, B, O, 4 * H * W);
  auto taps = folded();
  if (traffic) check::count_traffic();
  dmgan::launch_upsample_conv3x3_forward<S>(a, x.map().data, weight.data(), taps.data(), y.map().data, nullptr);
  if (traffic) check::coalesced(name + "forward");
  check::close(name + "y", y, true_results.y, O, 4 * H * W, bar);

  auto grad_x = check::dense_output<S>(layout, B, I, H * W);
  taps = folded();
  if (traffic) check::count_traffic();
  dmgan::launch_upsample_conv3x3_grad_x<S>(a, grad_y.map().data, weight.data(), taps.data(), grad_x.map().data,
                                           nullptr);
  if (traffic) check::coalesced(name + "grad x");
  check::close(name + "grad x", grad_x, true_results.grad_x, I, H * W, bar);

  auto grad_weight = check::nans<S>(O * I * 9);
  auto parts = check::nans<float>(dmgan::upsample_conv3x3_part_floats<S>(a));
  if (traffic) check::count_traffic();
  dmgan::launch_upsample_conv3x3_grad_weight<S>(a, grad_y.map().data, x.map().data, parts.data(), grad_weight.data(),
                                                nullptr);
  if (traffic) check::coalesced(name + "grad weight");
  check::close(name + "grad weight", grad_weight, true_results.grad_weight, bar);
}

}  // namespace

int main() {
  return check::run([] {
    test<float>({1, 3, 5, 3, 5});
    test<c10::BFloat16>({1, 16, 8, 2, 17, Layout::kChannelsLast});
#ifndef SIMT_THREADS
    test<float>({2, 9, 70, 5, 7, Layout::kChannelsLast});
    test<c10::Half>({1, 40, 66, 9, 3});
    test<float>({1, 8, 4, 1, 140});  // two tiles side by side
    test<c10::BFloat16>({2, 8, 8, 1, 1, Layout::kChannelsLast});
    test<c10::Half>({3, 4, 2, 40, 20});  // two splits
    for (const Layout layout : {Layout::kNchw, Layout::kChannelsLast}) {
      test<float>({1, 32, 64, 8, 32, layout}, true);
      test<c10::BFloat16>({1, 32, 64, 8, 64, layout}, true);
    }
#endif
  });
}
