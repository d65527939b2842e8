// words_similarity against double loops: odd sizes, several groups of captions, captions of padding, words of zeros.
#include "check.h"
#include "words_similarity.cuh"

namespace {

using Doubles = std::vector<double>;

struct Case {
  int images, captions, dimensions, regions, words;
  float gamma1 = 4.0f;
  bool zero_word = false;       // one word is zero: its cosine is clamped
  bool padded_caption = false;  // one caption has no word
};

template <class S>
struct Inputs {
  Case size;
  check::Buffer<S> region, word;
  check::Buffer<int64_t> lengths;
  check::Buffer<float> grad;

  explicit Inputs(const Case& s)
      : size(s),
        region(check::normal<S>(s.images * s.dimensions * s.regions, std::pow(s.dimensions, -0.25f))),
        word(check::normal<S>(s.captions * s.dimensions * s.words, std::pow(s.dimensions, -0.25f))),
        grad(check::normal<float>(s.images * s.captions, 1.0f)) {
    for (int k = 0; k < s.captions; ++k) lengths.push_back(std::max(1, s.words - 2 * k));
    if (s.padded_caption) lengths.back() = 0;
    for (int d = 0; s.zero_word && d < s.dimensions; ++d) word[d * s.words] = S(0.0f);
  }

  double r(int b, int d, int n) const {
    return static_cast<float>(region[(b * size.dimensions + d) * size.regions + n]);
  }
  double w(int k, int d, int t) const { return static_cast<float>(word[(k * size.dimensions + d) * size.words + t]); }

  dmgan::WordsSimilarityInputs<S> kernel_inputs() const {
    return {size.images, size.captions, size.dimensions, size.regions, size.words,
            region.data(), word.data(),   lengths.data(),  size.gamma1,  kGamma2};
  }

  static constexpr float kGamma2 = 5.0f;
};

struct Truth {
  Doubles scores, grad_region, grad_word;
};

template <class S>
Truth truth(const Inputs<S>& in) {
  const auto [B, K, D, N, T, gamma1, zero_word, padded_caption] = in.size;
  const double gamma2 = in.kGamma2;
  Truth result{Doubles(B * K), Doubles(B * D * N), Doubles(K * D * T)};
  for (int pair = 0; pair < B * K; ++pair) {
    const int b = pair / K, k = pair % K, length = static_cast<int>(in.lengths[k]);
    Doubles s(length * N), a(length * N), context(length * D), matched(length);
    for (int n = 0; n < N; ++n) {
      double total = 0.0;
      for (int t = 0; t < length; ++t) {
        double logit = 0.0;
        for (int d = 0; d < in.size.dimensions; ++d) logit += in.r(b, d, n) * in.w(k, d, t);
        total += s[t * N + n] = std::exp(logit);
      }
      for (int t = 0; t < length; ++t) s[t * N + n] /= total;
    }
    double sum = 0.0;
    Doubles product(length), context_norm(length), word_norm(length), norms(length);
    for (int t = 0; t < length; ++t) {
      double total = 0.0;
      for (int n = 0; n < N; ++n) total += a[t * N + n] = std::exp(gamma1 * (s[t * N + n] - 1));
      for (int n = 0; n < N; ++n) a[t * N + n] /= total;
      for (int d = 0; d < D; ++d) {
        double& c = context[t * D + d];
        for (int n = 0; n < N; ++n) c += a[t * N + n] * in.r(b, d, n);
        product[t] += c * in.w(k, d, t);
        context_norm[t] += c * c;
        word_norm[t] += in.w(k, d, t) * in.w(k, d, t);
      }
      norms[t] = std::max(std::sqrt(context_norm[t] * word_norm[t]), 1e-8);
      matched[t] = gamma2 * product[t] / norms[t];
      sum += std::exp(matched[t]);
    }
    result.scores[pair] = std::log(sum);

    Doubles ds(length * N), ds_mean(N);
    for (int t = 0; t < length; ++t) {
      const double grad = in.grad[pair] * gamma2 * std::exp(matched[t]) / sum, cosine = product[t] / norms[t];
      const bool normalised = std::sqrt(context_norm[t] * word_norm[t]) >= 1e-8;
      Doubles dc(D);
      for (int d = 0; d < D; ++d) {
        const double c = context[t * D + d], w = in.w(k, d, t);
        dc[d] = grad * (w / norms[t] - (normalised ? cosine * c / context_norm[t] : 0.0));
        result.grad_word[(k * D + d) * T + t] += grad * (c / norms[t] - (normalised ? cosine * w / word_norm[t] : 0.0));
      }
      double da_mean = 0.0;
      for (int n = 0; n < N; ++n) {
        double& da = ds[t * N + n];
        for (int d = 0; d < D; ++d) {
          da += dc[d] * in.r(b, d, n);
          result.grad_region[(b * D + d) * N + n] += dc[d] * a[t * N + n];
        }
        da_mean += a[t * N + n] * da;
      }
      for (int n = 0; n < N; ++n) {
        ds[t * N + n] = gamma1 * a[t * N + n] * (ds[t * N + n] - da_mean);
        ds_mean[n] += s[t * N + n] * ds[t * N + n];
      }
    }
    for (int t = 0; t < length; ++t) {
      for (int n = 0; n < N; ++n) {
        const double dlogit = s[t * N + n] * (ds[t * N + n] - ds_mean[n]);
        for (int d = 0; d < D; ++d) {
          result.grad_region[(b * D + d) * N + n] += dlogit * in.w(k, d, t);
          result.grad_word[(k * D + d) * T + t] += dlogit * in.r(b, d, n);
        }
      }
    }
  }
  return result;
}

template <class S>
void test(const Case& size, bool traffic = false) {
  const auto [B, K, D, N, T, gamma1, zero_word, padded_caption] = size;
  const std::string name = "words_similarity " + std::string(check::kName<S>) + " " + std::to_string(B) +
                           " images, " + std::to_string(K) + " captions, D " + std::to_string(D) + ", N " +
                           std::to_string(N) + ", T " + std::to_string(T) + ": ";
  const Inputs<S> in(size);
  const dmgan::WordsSimilarityInputs<S> inputs = in.kernel_inputs();
  const dmgan::WordsSimilarityWork at = dmgan::words_similarity_work(inputs);
  const Truth true_results = truth(in);

  auto scores = check::nans<float>(B * K), work = check::nans<float>(at.forward_size());
  if (traffic) check::count_traffic();
  dmgan::launch_words_similarity_forward<S>(inputs, scores.data(), work.data(), nullptr);
  if (traffic) check::coalesced(name + "forward");
  check::close(name + "scores", scores, true_results.scores, 1e-5);

  auto grad_region = check::nans<S>(B * D * N), grad_word = check::nans<S>(K * D * T);
  work = check::nans<float>(at.backward_size());
  if (traffic) check::count_traffic();
  dmgan::launch_words_similarity_backward<S>(inputs, in.grad.data(), scores.data(), grad_region.data(),
                                             grad_word.data(), work.data(), nullptr);
  if (traffic) check::coalesced(name + "backward");
  const double bar = 4 * check::kTolerance<S>;
  check::close(name + "grad regions", grad_region, true_results.grad_region, bar);
  check::close(name + "grad words", grad_word, true_results.grad_word, bar);
}

}  // namespace

int main() {
  return check::run([] {
    test<float>({1, 1, 5, 6, 1});
    test<float>({2, 3, 20, 35, 7});
    test<c10::BFloat16>({1, 2, 33, 20, 18});
    test<float>({2, 18, 5, 9, 2, 4.0f, false, true});  // two groups
#ifndef SIMT_THREADS
    test<float>({18, 2, 7, 5, 33});  // a slice of two images
    test<float>({2, 3, 70, 150, 25, 30.0f});
    test<float>({1, 2, 12, 9, 3, 4.0f, true});
    test<c10::Half>({2, 2, 96, 81, 18, 10.0f, false, true});
    test<float>({2, 2, 64, 256, 32}, true);
    test<c10::BFloat16>({2, 2, 64, 256, 32}, true);
#endif
  });
}
