// batch_norm_glu against double loops: both layouts, packs and single elements, strips that end early, a large mean.
#include "batch_norm_glu.cuh"
#include "check.h"

namespace {

using check::Layout;
using Doubles = std::vector<double>;

struct Case {
  int batch, channels, pixels;
  Layout layout = Layout::kNchw;
  int skip_channels = 0;    // 0: GLU
  bool training = true;     // else with given statistics
  bool affine = true;       // with weight and bias
  float offset = 0.5f;      // of x's mean, in standard deviations
  bool misaligned = false;  // feature maps start one element after an aligned address
};

template <class S>
struct Inputs {
  Case size;
  int y_channels = size.skip_channels ? size.channels : size.channels / 2;
  check::Map<S> x = map(size.channels, 2.0f), skip = map(size.skip_channels, 1.0f), grad_y = map(y_channels, 1.0f);
  check::Buffer<float> weight = check::normal<float>(size.channels, 1.0f);
  check::Buffer<float> bias = check::normal<float>(size.channels, 1.0f);
  check::Buffer<float> given_mean = check::normal<float>(size.channels, 1.0f);
  check::Buffer<float> given_var = check::normal<float>(size.channels, 1.0f);
  check::Buffer<float> grad_mean = check::normal<float>(size.batch * y_channels, 4.0f);

  explicit Inputs(const Case& s) : size(s) {
    for (S& value : x.buffer) value = static_cast<S>(static_cast<float>(value) + 2.0f * size.offset);
    for (float& value : given_var) value = value * value;
  }

  check::Map<S> map(int channels, float scale) const {
    check::Map<S> result = check::feature_map<S>(size.layout, size.batch, channels, size.pixels, scale);
    return size.misaligned ? shifted(result) : result;
  }
  check::Map<S> output(int channels) const {
    check::Map<S> result = check::dense_output<S>(size.layout, size.batch, channels, size.pixels);
    return size.misaligned ? shifted(result) : result;
  }
  static check::Map<S> shifted(check::Map<S> map) {
    map.buffer.insert(map.buffer.begin(), S(0.0f));
    map.first = 1;
    return map;
  }

  dmgan::BatchNormGluInputs<S> kernel_inputs() const {
    return {size.batch,
            size.channels,
            y_channels,
            size.pixels,
            size.layout == Layout::kChannelsLast,
            x.map().data,
            size.affine ? weight.data() : nullptr,
            size.affine ? bias.data() : nullptr};
  }

  // visit(b, c, n, i), i being the index in a dense [B, channels, N].
  template <class Visit>
  void for_each(int channels, Visit visit) const {
    for (int b = 0; b < size.batch; ++b) {
      for (int c = 0; c < channels; ++c) {
        for (int n = 0; n < size.pixels; ++n) visit(b, c, n, (static_cast<size_t>(b) * channels + c) * size.pixels + n);
      }
    }
  }
};

// z = x-hat weight + bias, and what becomes of it.
template <class S>
struct Truth {
  const Inputs<S>& in;
  Doubles xhat, z, y, spatial_mean;

  template <class Floats>
  Truth(const Inputs<S>& inputs, const Floats& mean, const Floats& rstd)
      : in(inputs),
        xhat(in.size.batch * in.size.channels * in.size.pixels),
        z(xhat.size()),
        y(in.size.batch * in.y_channels * in.size.pixels),
        spatial_mean(in.size.batch * in.y_channels) {
    in.for_each(in.size.channels, [&](int b, int c, int n, size_t i) {
      xhat[i] = (in.x(b, c, n) - mean[c]) * rstd[c];
      z[i] = in.size.affine ? xhat[i] * in.weight[c] + in.bias[c] : xhat[i];
    });
    in.for_each(in.y_channels, [&](int b, int c, int n, size_t i) {
      y[i] = in.size.skip_channels ? z[i] + in.skip(b, c % in.size.skip_channels, n)
                                   : z[half(b, 0, c, n)] / (1 + std::exp(-z[half(b, 1, c, n)]));
      spatial_mean[b * in.y_channels + c] += y[i] / in.size.pixels;
    });
  }

  size_t half(int b, int which, int c, int n) const {
    return (static_cast<size_t>(b) * in.size.channels + which * in.y_channels + c) * in.size.pixels + n;
  }

  Doubles grad_z() const {
    Doubles dz(z.size());
    in.for_each(in.y_channels, [&](int b, int c, int n, size_t i) {
      const double dy = in.grad_y(b, c, n) + in.grad_mean[b * in.y_channels + c] / in.size.pixels;
      if (in.size.skip_channels) {
        dz[i] = dy;
      } else {
        const double gate = 1 / (1 + std::exp(-z[half(b, 1, c, n)]));
        dz[half(b, 0, c, n)] = dy * gate;
        dz[half(b, 1, c, n)] = dy * z[half(b, 0, c, n)] * gate * (1 - gate);
      }
    });
    return dz;
  }
};

Doubles widen(const check::Buffer<float>& values) { return {values.begin(), values.end()}; }

template <class S>
void test(const Case& size, bool traffic = false) {
  constexpr float kEps = 1e-4f;
  const auto [B, C, N, layout, skip_channels, training, affine, offset, misaligned] = size;
  const std::string name = "batch_norm_glu " + std::string(check::kName<S>) + " [" + std::to_string(B) + ", " +
                           std::to_string(C) + ", " + std::to_string(N) + "], layout " +
                           std::to_string(static_cast<int>(layout)) + ", skip " + std::to_string(skip_channels) + ": ";
  const Inputs<S> in(size);
  const dmgan::BatchNormGluInputs<S> inputs = in.kernel_inputs();
  const double bar = check::kTolerance<S>, sum_bar = 1e-5;
  const auto work = [&] {
    return check::nans<float>(
        dmgan::batch_norm_glu_work_floats(B, C, in.y_channels, N, layout == Layout::kChannelsLast));
  };

  Doubles mean = widen(in.given_mean), var = widen(in.given_var), rstd(C);
  check::Buffer<float> found_mean = in.given_mean, found_var = in.given_var;
  if (training) {
    std::fill(mean.begin(), mean.end(), 0.0);
    std::fill(var.begin(), var.end(), 0.0);
    in.for_each(C, [&](int b, int c, int n, size_t) { mean[c] += in.x(b, c, n) / (B * N); });
    in.for_each(C, [&](int b, int c, int n, size_t) { var[c] += std::pow(in.x(b, c, n) - mean[c], 2) / (B * N); });
    auto parts = work();
    std::fill(found_mean.begin(), found_mean.end(), NAN);
    std::fill(found_var.begin(), found_var.end(), NAN);
    if (traffic) check::count_traffic();
    dmgan::launch_batch_norm_glu_statistics<S>(inputs, found_mean.data(), found_var.data(), parts.data(), nullptr);
    if (traffic) check::coalesced(name + "statistics");
    check::close(name + "mean", found_mean, mean, 1e-6);
    check::close(name + "var", found_var, var, 1e-5);
  }
  for (int c = 0; c < C; ++c) rstd[c] = 1 / std::sqrt(found_var[c] + kEps);

  auto y = in.output(in.y_channels);
  auto found_rstd = check::nans<float>(C), spatial_mean = check::nans<float>(B * in.y_channels), parts = work();
  if (traffic) check::count_traffic();
  dmgan::launch_batch_norm_glu_forward<S>(
      {inputs, skip_channels ? in.skip.map().data : nullptr, skip_channels, found_mean.data(), found_var.data(), kEps,
       y.map().data, found_rstd.data(), spatial_mean.data(), parts.data()},
      nullptr);
  if (traffic) check::coalesced(name + "forward");
  const Truth<S> forward(in, widen(found_mean), rstd);
  check::close(name + "rstd", found_rstd, rstd, 1e-6);
  check::close(name + "y", y, forward.y, in.y_channels, N, bar);
  check::close(name + "spatial mean", spatial_mean, forward.spatial_mean, sum_bar);

  const dmgan::BatchNormGluBackward<S> backward{inputs, in.grad_y.map().data, in.grad_mean.data(), found_mean.data(),
                                                found_rstd.data()};
  const Truth<S> truth(in, found_mean, found_rstd);
  const Doubles dz = truth.grad_z();
  Doubles true_sums(2 * C);
  in.for_each(C, [&](int, int c, int, size_t i) {
    true_sums[c] += dz[i];
    true_sums[C + c] += dz[i] * truth.xhat[i];
  });
  auto sums = check::nans<float>(2 * C);
  parts = work();
  if (traffic) check::count_traffic();
  dmgan::launch_batch_norm_glu_reduce<S>(backward, sums.data(), sums.data() + C, parts.data(), nullptr);
  if (traffic) check::coalesced(name + "reduce");
  check::close(name + "sums", sums, true_sums, sum_bar);

  // As if another process had as many values with other sums.
  const auto shared = check::normal<float>(2 * C, std::sqrt(B * N));
  const double count = 2.0 * B * N;
  Doubles grad_x(dz.size());
  in.for_each(C, [&](int, int c, int, size_t i) {
    const double centred = training ? dz[i] - shared[c] / count - truth.xhat[i] * shared[C + c] / count : dz[i];
    grad_x[i] = centred * found_rstd[c] * (affine ? in.weight[c] : 1.0f);
  });
  auto found = in.output(C);
  if (traffic) check::count_traffic();
  dmgan::launch_batch_norm_glu_backward<S>(backward, training ? shared.data() : nullptr, shared.data() + C, count,
                                           found.map().data, nullptr);
  if (traffic) check::coalesced(name + "backward");
  check::close(name + "grad x", found, grad_x, C, N, bar);
}

}  // namespace

int main() {
  return check::run([] {
    test<float>({1, 2, 7});
    test<float>({2, 6, 35, Layout::kChannelsLast});
    test<float>({2, 8, 64, Layout::kNchw, 4});
    test<c10::BFloat16>({2, 16, 24, Layout::kChannelsLast, 16});
    test<c10::Half>({3, 4, 16, Layout::kNchw, 0, false});
    test<float>({1, 4, 2200, Layout::kChannelsLast, 0, true, true, 1000.0f});  // three strips, a large mean
#ifndef SIMT_THREADS
    test<float>({2, 4, 4500, Layout::kNchw, 0, true, false, 1000.0f});
    test<float>({2, 10, 33, Layout::kNchw, 5, true, false});
    test<float>({2, 300, 9, Layout::kChannelsLast});
    test<c10::Half>({2, 66, 40, Layout::kNchw, 0, true, true, 0.5f, true});
    test<c10::BFloat16>({2, 16, 40, Layout::kChannelsLast, 8, false, true, 0.5f, true});
    for (const Layout layout : {Layout::kNchw, Layout::kChannelsLast}) {
      for (const int skip_channels : {0, 64}) {
        test<float>({2, 64, 256, layout, skip_channels}, true);
        test<c10::BFloat16>({2, 64, 256, layout, skip_channels}, true);
      }
    }
#endif
  });
}
