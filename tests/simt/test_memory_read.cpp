// memory_read against double loops: odd sizes, every layout, both masks, captions up to the longest register row.
#include "check.h"
#include "memory_read.cuh"

using check::Layout;

namespace {

constexpr int kFewBlocks = 3;  // in the backward pass, so that a block sums over several tiles

struct Case {
  int batch, channels, words, pixels;
  Layout layout = Layout::kNchw;
  bool gated = true, masked = true, official = false;

  // grad_out may come in another layout than h.
  Layout grad_layout() const { return layout == Layout::kSliced ? Layout::kChannelsLast : layout; }
};

// What the paper's equations give in double, and their gradients.
struct Truth {
  std::vector<double> out, lse, attention, gate;  // [B, C, N], [B, N], [B, T, N], [B, N]
  std::vector<double> grad_h, grad_key, grad_value, grad_gate_weight, grad_gate_bias;
};

template <class S>
struct Inputs {
  Case size;
  check::Map<S> h, grad_out;
  check::Buffer<S> key, value, grad_attention, grad_gate;
  check::Buffer<float> gate_weight, gate_bias;
  std::unique_ptr<bool[]> mask;

  explicit Inputs(Case s)
      : size(s),
        h(check::feature_map<S>(s.layout, s.batch, s.channels, s.pixels, 0.5f)),
        grad_out(check::feature_map<S>(s.grad_layout(), s.batch, s.channels, s.pixels, 1.0f)),
        key(check::normal<S>(s.batch * s.channels * s.words, 0.5f)),
        value(check::normal<S>(s.batch * s.channels * s.words, 0.5f)),
        grad_attention(check::normal<S>(s.batch * s.words * s.pixels, 1.0f)),
        grad_gate(check::normal<S>(s.batch * s.pixels, 1.0f)),
        gate_weight(check::normal<float>(2 * s.channels, 0.2f)),
        gate_bias(check::normal<float>(1, 0.5f)),
        mask(new bool[s.batch * s.words]) {
    for (int b = 0; b < s.batch; ++b) {  // the last sample's caption is all padding
      for (int t = 0; t < s.words; ++t) mask[b * s.words + t] = b + 1 == s.batch ? s.batch > 1 : t >= s.words - 2 * b;
    }
  }

  dmgan::MemoryReadInputs<S> kernel_inputs() const {
    return {size.batch,
            size.channels,
            size.pixels,
            size.words,
            h.map(),
            key.data(),
            value.data(),
            size.gated ? gate_weight.data() : nullptr,
            size.gated ? gate_bias.data() : nullptr,
            size.masked ? mask.get() : nullptr,
            size.official};
  }

  bool reads(int b, int n, int t) const {
    const int row = size.official ? (b * size.pixels + n) % size.batch : b;
    return !size.masked || !mask[row * size.words + t];
  }

  Truth truth() const {
    const auto [B, C, T, N, layout, gated, masked, official] = size;
    const auto k = [&, C = C, T = T](int b, int c, int t) -> double {
      return static_cast<float>(key[(b * C + c) * T + t]);
    };
    const auto v = [&, C = C, T = T](int b, int c, int t) -> double {
      return static_cast<float>(value[(b * C + c) * T + t]);
    };
    const auto zeros = [](size_t count) { return std::vector<double>(count, 0.0); };
    Truth r{zeros(B * C * N), zeros(B * N),     zeros(B * T * N), zeros(B * N), zeros(B * C * N),
            zeros(B * C * T), zeros(B * C * T), zeros(2 * C),     zeros(1)};
    for (int b = 0; b < B; ++b) {
      for (int n = 0; n < N; ++n) {
        std::vector<double> alpha(T, 0.0), read(C, 0.0), grad_read(C), grad_alpha(T);
        double total = 0.0;
        for (int t = 0; t < T; ++t) {
          double logit = 0.0;
          for (int c = 0; c < C; ++c) logit += h(b, c, n) * k(b, c, t);
          if (reads(b, n, t)) total += alpha[t] = std::exp(logit);
        }
        r.lse[b * N + n] = std::log(total);
        for (int t = 0; t < T; ++t) {
          if (total > 0) alpha[t] /= total;
          r.attention[(b * T + t) * N + n] = alpha[t];
          for (int c = 0; c < C; ++c) read[c] += alpha[t] * v(b, c, t);
        }
        double logit = gate_bias[0];
        for (int c = 0; c < C; ++c) logit += gate_weight[c] * h(b, c, n) + gate_weight[C + c] * read[c];
        const double gate = gated ? 1 / (1 + std::exp(-logit)) : 1.0;
        r.gate[b * N + n] = gate;
        double grad_logit = gated ? static_cast<float>(grad_gate[b * N + n]) : 0.0;
        for (int c = 0; c < C; ++c) {
          r.out[(b * C + c) * N + n] = gate * read[c] + (1 - gate) * h(b, c, n);
          grad_logit += grad_out(b, c, n) * (read[c] - h(b, c, n));
        }
        grad_logit = gated ? grad_logit * gate * (1 - gate) : 0.0;
        double mean = 0.0;
        for (int c = 0; c < C; ++c) grad_read[c] = gate * grad_out(b, c, n) + grad_logit * gate_weight[C + c];
        for (int t = 0; t < T; ++t) {
          grad_alpha[t] = static_cast<float>(grad_attention[(b * T + t) * N + n]);
          for (int c = 0; c < C; ++c) grad_alpha[t] += grad_read[c] * v(b, c, t);
          mean += alpha[t] * grad_alpha[t];
        }
        for (int c = 0; c < C; ++c) {
          double grad = (1 - gate) * grad_out(b, c, n) + grad_logit * gate_weight[c];
          for (int t = 0; t < T; ++t) {
            const double ds = alpha[t] * (grad_alpha[t] - mean);
            grad += ds * k(b, c, t);
            r.grad_key[(b * C + c) * T + t] += ds * h(b, c, n);
            r.grad_value[(b * C + c) * T + t] += alpha[t] * grad_read[c];
          }
          r.grad_h[(b * C + c) * N + n] = grad;
          r.grad_gate_weight[c] += grad_logit * h(b, c, n);
          r.grad_gate_weight[C + c] += grad_logit * read[c];
        }
        r.grad_gate_bias[0] += grad_logit;
      }
    }
    return r;
  }
};

template <class S>
void test(Case size, bool traffic = false) {
  const auto [B, C, T, N, layout, gated, masked, official] = size;
  const std::string name = "memory_read " + std::string(check::kName<S>) + " [" + std::to_string(B) + ", " +
                           std::to_string(C) + ", " + std::to_string(N) + "], " + std::to_string(T) +
                           " words, layout " + std::to_string(static_cast<int>(layout)) + ": ";
  const Inputs<S> in(size);
  const Truth truth = in.truth();
  const double bar = check::kTolerance<S>;

  if (traffic) check::count_traffic();
  auto out = check::dense_output<S>(layout, B, C, N);
  auto lse = check::nans<float>(B * N);
  auto attention = check::nans<S>(B * T * N), gate = check::nans<S>(B * N);
  dmgan::launch_memory_read_forward<S>(
      {in.kernel_inputs(), out.map(), lse.data(), attention.data(), gated ? gate.data() : nullptr}, nullptr);
  check::close(name + "h'", out, truth.out, C, N, bar);
  check::close(name + "lse", lse, truth.lse, 3e-6);
  check::close(name + "attention", attention, truth.attention, bar);
  if (gated) check::close(name + "gate", gate, truth.gate, bar);
  if (traffic) check::coalesced(name + "forward");

  if (traffic) check::count_traffic();
  auto grad_h = check::dense_output<S>(layout, B, C, N);
  auto grad_key = check::nans<S>(B * C * T), grad_value = check::nans<S>(B * C * T);
  auto grad_gate_weight = check::nans<float>(2 * C), grad_gate_bias = check::nans<float>(1);
  auto work = check::nans<float>(dmgan::memory_read_work_floats<S>(B, C, N, T, kFewBlocks));
  dmgan::launch_memory_read_backward<S>(
      {in.kernel_inputs(), in.grad_out.map(), in.grad_attention.data(), gated ? in.grad_gate.data() : nullptr,
       lse.data(), grad_h.map(), grad_key.data(), grad_value.data(), grad_gate_weight.data(), grad_gate_bias.data(),
       work.data()},
      nullptr, kFewBlocks);
  check::close(name + "grad h", grad_h, truth.grad_h, C, N, bar);
  check::close(name + "grad key", grad_key, truth.grad_key, 2 * bar);
  check::close(name + "grad value", grad_value, truth.grad_value, 2 * bar);
  if (gated) {
    check::close(name + "grad gate weight", grad_gate_weight, truth.grad_gate_weight, 1e-5);
    check::close(name + "grad gate bias", grad_gate_bias, truth.grad_gate_bias, 1e-4);
  }
  if (traffic) check::coalesced(name + "backward");
}

}  // namespace

int main() {
  return check::run([] {
    test<float>({1, 5, 1, 7, Layout::kNchw, true, false});
    test<float>({2, 32, 18, 150});
    test<float>({2, 5, 25, 33, Layout::kChannelsLast});
    test<float>({2, 48, 7, 65, Layout::kSliced, false});
    test<float>({3, 6, 9, 35, Layout::kExpanded, true, true, true});
    test<float>({2, 70, 32, 35, Layout::kChannelsLast});  // the longest row, two panels of channels
    test<c10::BFloat16>({2, 33, 18, 70, Layout::kChannelsLast});
    test<c10::Half>({2, 5, 31, 41, Layout::kNchw, false});
#ifndef SIMT_THREADS
    test<float>({1, 300, 32, 9});  // a tile smaller than a warp
    test<c10::Half>({1, 512, 20, 9, Layout::kChannelsLast});
    test<float>({1, 64, 20, 256}, true);
    test<float>({1, 64, 20, 256, Layout::kChannelsLast}, true);
    test<c10::BFloat16>({1, 64, 18, 256}, true);
    test<c10::BFloat16>({1, 64, 18, 256, Layout::kChannelsLast}, true);
#endif
  });
}
