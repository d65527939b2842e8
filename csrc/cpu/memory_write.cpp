// Memory writing and the key and value maps, forward and backward each in one pass over a sample's words:
//   g = sigmoid(A w + B mean), m = g relu(M_w w + b_w) + (1 - g) relu(M_r mean + b_r), k = relu(K m), v = relu(V m).
// All maps of a sample stay in cache; words are the lanes. Gradients of the weights are summed over samples in order.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "../schemas.h"
#include "../tensors.h"
#include "gemm.h"

namespace dmgan {
namespace {

// A tensor as floats: itself, or a converted copy.
class Floats {
 public:
  explicit Floats(const Tensor& x) {
    if (x.scalar_type() == torch::headeronly::ScalarType::Float) {
      data_ = dmgan::data<float>(x);
      return;
    }
    copy_.resize(x.numel());
    DMGAN_FLOAT_TYPES(x, for (int64_t i = 0; i < x.numel(); ++i) copy_[i] = static_cast<float>(dmgan::data<S>(x)[i]));
    data_ = copy_.data();
  }
  operator const float*() const { return data_; }

 private:
  std::vector<float> copy_;
  const float* data_;
};

struct Parameters {
  Floats gate_word, gate_image, word_weight, word_bias, image_weight, image_bias, key_weight, key_bias, value_weight,
      value_bias;
};

struct Sizes {
  int64_t batch, word_channels, words, channels;
  int64_t lanes;  // words, rounded up to whole vectors
  int64_t memory() const { return 2 * channels; }
};

Sizes describe(const Tensor& words, const Tensor& image_mean) {
  return {words.size(0), words.size(1), words.size(2), image_mean.size(1), round_up(words.size(2), kLanes)};
}

// One sample's maps; rows of `lanes` words.
struct Sample {
  float *words, *written, *memory, *key, *value;  // [D], [2C] before relu, [2C], [C], [C] rows
  float *gate, *image;                            // [lanes], [2C] after relu
  static int64_t floats(const Sizes& s) {
    return (s.word_channels + 2 * s.memory() + 2 * s.channels + 1) * s.lanes + round_up(s.memory(), kLanes);
  }
  Sample(float* work, const Sizes& s) {
    words = work;
    written = words + s.word_channels * s.lanes;
    memory = written + s.memory() * s.lanes;
    key = memory + s.memory() * s.lanes;
    value = key + s.channels * s.lanes;
    gate = value + s.channels * s.lanes;
    image = gate + s.lanes;
  }
};

// rows [count, lanes] from x [count, T], zeros beyond T.
void pad_rows(const float* x, int64_t count, const Sizes& s, float* rows) {
  for (int64_t r = 0; r < count; ++r) {
    std::copy_n(x + r * s.words, s.words, rows + r * s.lanes);
    std::fill(rows + r * s.lanes + s.words, rows + (r + 1) * s.lanes, 0.0f);
  }
}

DMGAN_INLINE Vec relu(Vec x) { return max(Vec{}, x); }  // NaN stays

DMGAN_HOT void write_memory(const Sizes& s, const Parameters& p, const float* image_mean, const Sample& x) {
  for (int64_t j = 0; j < s.memory(); ++j) {
    const float value = dot(p.image_weight + j * s.channels, image_mean, s.channels) + p.image_bias[j];
    x.image[j] = value < 0.0f ? 0.0f : value;
    for (int64_t v = 0; v < s.lanes; v += kLanes) store(x.written + j * s.lanes + v, splat(p.word_bias[j]));
  }
  multiply<true>(s.memory(), s.lanes, s.word_channels, {p.word_weight, s.word_channels, 1}, x.words, s.lanes, x.written,
                 s.lanes);
  const float of_image = dot(p.gate_image, image_mean, s.channels);
  for (int64_t v = 0; v < s.lanes; v += kLanes) {
    Vec logit = splat(of_image);
    for (int64_t d = 0; d < s.word_channels; ++d) logit += p.gate_word[d] * load(x.words + d * s.lanes + v);
    const Vec gate = sigmoid(logit);
    store(x.gate + v, gate);
    for (int64_t j = 0; j < s.memory(); ++j) {
      const int64_t at = j * s.lanes + v;
      store(x.memory + at, gate * relu(load(x.written + at)) + (1.0f - gate) * x.image[j]);
    }
  }
}

DMGAN_HOT void project(const Sizes& s, const float* weight, const float* bias, const float* memory, float* result) {
  for (int64_t c = 0; c < s.channels; ++c) {
    for (int64_t v = 0; v < s.lanes; v += kLanes) store(result + c * s.lanes + v, splat(bias[c]));
  }
  multiply<true>(s.channels, s.lanes, s.memory(), {weight, s.memory(), 1}, memory, s.lanes, result, s.lanes);
  for (int64_t at = 0; at < s.channels * s.lanes; at += kLanes) store(result + at, relu(load(result + at)));
}

template <class S>
void unpad_rows(const float* rows, int64_t count, const Sizes& s, S* x) {
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t t = 0; t < s.words; ++t) x[r * s.words + t] = static_cast<S>(rows[r * s.lanes + t]);
  }
}

std::tuple<Tensor, Tensor> memory_write_forward(const Tensor& words, const Tensor& image_mean, const Tensor& gate_word,
                                                const Tensor& gate_image, const Tensor& word_weight,
                                                const Tensor& word_bias, const Tensor& image_weight,
                                                const Tensor& image_bias, const Tensor& key_weight,
                                                const Tensor& key_bias, const Tensor& value_weight,
                                                const Tensor& value_bias) {
  const Sizes s = describe(words, image_mean);
  const Parameters p{Floats(gate_word),    Floats(gate_image), Floats(word_weight), Floats(word_bias),
                     Floats(image_weight), Floats(image_bias), Floats(key_weight),  Floats(key_bias),
                     Floats(value_weight), Floats(value_bias)};
  const Floats all_words(words), means(image_mean);
  Tensor key = torch::stable::new_empty(words, {s.batch, s.channels, s.words});
  Tensor value = torch::stable::new_empty(words, {s.batch, s.channels, s.words});
  torch::stable::parallel_for(0, s.batch, 1, [&](int64_t begin, int64_t end) {
    const Sample x(scratch(Sample::floats(s)), s);
    for (int64_t b = begin; b < end; ++b) {
      pad_rows(all_words + b * s.word_channels * s.words, s.word_channels, s, x.words);
      write_memory(s, p, means + b * s.channels, x);
      project(s, p.key_weight, p.key_bias, x.memory, x.key);
      project(s, p.value_weight, p.value_bias, x.memory, x.value);
      const int64_t first = b * s.channels * s.words;
      DMGAN_FLOAT_TYPES(key, unpad_rows(x.key, s.channels, s, mutable_data<S>(key) + first);
                        unpad_rows(x.value, s.channels, s, mutable_data<S>(value) + first));
    }
  });
  return {key, value};
}

// One sample's gradients; rows of `lanes` words, zero beyond T. All samples' lie one after the other.
struct Gradients {
  float *key, *value, *written, *words;           // before relu: [C], [C], [2C]; [D] rows
  float *gate, *image, *image_mean, *gate_total;  // before sigmoid [lanes], before relu [2C]; [C], [1]
  static int64_t floats(const Sizes& s) {
    return (2 * s.channels + s.memory() + s.word_channels + 1) * s.lanes + round_up(s.memory(), kLanes) +
           round_up(s.channels + 1, kLanes);
  }
  Gradients(float* work, const Sizes& s) {
    key = work;
    value = key + s.channels * s.lanes;
    written = value + s.channels * s.lanes;
    words = written + s.memory() * s.lanes;
    gate = words + s.word_channels * s.lanes;
    image = gate + s.lanes;
    image_mean = image + round_up(s.memory(), kLanes);
    gate_total = image_mean + s.channels;
  }
};

DMGAN_HOT void backward_sample(const Sizes& s, const Parameters& p, const Sample& x, const Gradients& g) {
  // x.key and x.value hold the results: relu stops gradients where they are zero.
  for (int64_t at = 0; at < s.channels * s.lanes; at += kLanes) {
    store(g.key + at, load(x.key + at) <= 0.0f ? Vec{} : load(g.key + at));
    store(g.value + at, load(x.value + at) <= 0.0f ? Vec{} : load(g.value + at));
  }
  float* grad_memory = g.written;
  multiply<false>(s.memory(), s.lanes, s.channels, {p.key_weight, 1, s.memory()}, g.key, s.lanes, grad_memory, s.lanes);
  multiply<true>(s.memory(), s.lanes, s.channels, {p.value_weight, 1, s.memory()}, g.value, s.lanes, grad_memory,
                 s.lanes);
  std::fill_n(g.gate, s.lanes, 0.0f);
  for (int64_t j = 0; j < s.memory(); ++j) {
    Vec of_image = {};
    for (int64_t v = 0; v < s.lanes; v += kLanes) {
      const int64_t at = j * s.lanes + v;
      const Vec grad = load(grad_memory + at), written = load(x.written + at), gate = load(x.gate + v);
      store(g.gate + v, load(g.gate + v) + grad * (relu(written) - x.image[j]));
      of_image += grad * (1.0f - gate);
      store(g.written + at, written <= 0.0f ? Vec{} : grad * gate);
    }
    g.image[j] = x.image[j] <= 0.0f ? 0.0f : sum(of_image);
  }
  Vec total = {};
  for (int64_t v = 0; v < s.lanes; v += kLanes) {
    const Vec gate = load(x.gate + v);
    const Vec grad = load(g.gate + v) * gate * (1.0f - gate);
    store(g.gate + v, grad);
    total += grad;
    for (int64_t d = 0; d < s.word_channels; ++d) store(g.words + d * s.lanes + v, p.gate_word[d] * grad);
  }
  *g.gate_total = sum(total);
  multiply<true>(s.word_channels, s.lanes, s.memory(), {p.word_weight, 1, s.word_channels}, g.written, s.lanes, g.words,
                 s.lanes);
  for (int64_t c = 0; c < s.channels; ++c) g.image_mean[c] = p.gate_image[c] * *g.gate_total;
  for (int64_t j = 0; j < s.memory(); ++j) {
    for (int64_t c = 0; c < s.channels; ++c) g.image_mean[c] += p.image_weight[j * s.channels + c] * g.image[j];
  }
}

// to [T, width] from rows [count, lanes]: words one after the other, zeros beyond `count`.
void transpose_rows(const float* rows, int64_t count, const Sizes& s, int64_t width, float* to) {
  for (int64_t t = 0; t < s.words; ++t) {
    for (int64_t r = 0; r < count; ++r) to[t * width + r] = rows[r * s.lanes + t];
    std::fill(to + t * width + count, to + (t + 1) * width, 0.0f);
  }
}

// result [rows, width] = sum over samples and words of a [rows, lanes] b [T, width], for rows begin ... end.
DMGAN_HOT void outer_rows(const Sizes& s, int64_t begin, int64_t end, int64_t width, const float* a,
                             int64_t a_sample, const float* b, float* result) {
  float* to = result + begin * width;
  for (int64_t sample = 0; sample < s.batch; ++sample) {
    const Scalars rows{a + sample * a_sample + begin * s.lanes, s.lanes, 1};
    const float* words = b + sample * s.words * width;
    if (sample) {
      multiply<true>(end - begin, width, s.words, rows, words, width, to, width);
    } else {
      multiply<false>(end - begin, width, s.words, rows, words, width, to, width);
    }
  }
}

DMGAN_HOT void sum_rows(const Sizes& s, int64_t begin, int64_t end, const float* a, int64_t a_sample,
                           float* result) {
  for (int64_t r = begin; r < end; ++r) {
    Vec total = {};
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t v = 0; v < s.lanes; v += kLanes) total += load(a + b * a_sample + r * s.lanes + v);
    }
    result[r] = sum(total);
  }
}

// result [columns] = sum over samples of scalar (`a_sample` apart) times row [columns].
DMGAN_HOT void sum_scaled(const Sizes& s, const float* scalars, int64_t a_sample, const float* rows,
                             int64_t columns, float* result) {
  std::fill_n(result, columns, 0.0f);
  for (int64_t b = 0; b < s.batch; ++b) {
    const float scalar = scalars[b * a_sample];
    for (int64_t i = 0; i < columns; ++i) result[i] += scalar * rows[b * columns + i];
  }
}

std::unique_ptr<float[]> unset(int64_t floats) { return std::make_unique_for_overwrite<float[]>(floats); }

// A new tensor like another, written as rows of `width` floats: in place where it is just that.
class Result {
 public:
  Result(const Tensor& like, int64_t width)
      : tensor_(torch::stable::empty_like(like)), columns_(like.size(like.dim() - 1)), width_(width) {
    if (columns_ == width && tensor_.scalar_type() == torch::headeronly::ScalarType::Float) {
      data_ = mutable_data<float>(tensor_);
    } else {
      copy_ = unset(tensor_.numel() / columns_ * width);
      data_ = copy_.get();
    }
  }
  operator float*() const { return data_; }
  Tensor tensor() {
    if (copy_) {
      DMGAN_FLOAT_TYPES(tensor_, S* to = mutable_data<S>(tensor_);
                        for (int64_t r = 0; r * columns_ < tensor_.numel(); ++r) {
                          for (int64_t i = 0; i < columns_; ++i) to[r * columns_ + i] = static_cast<S>(data_[r * width_ + i]);
                        });
    }
    return tensor_;
  }

 private:
  Tensor tensor_;
  int64_t columns_, width_;
  std::unique_ptr<float[]> copy_;
  float* data_;
};

using Twelve = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Twelve memory_write_backward(const Tensor& grad_key, const Tensor& grad_value, const Tensor& key, const Tensor& value,
                             const Tensor& words, const Tensor& image_mean, const Tensor& gate_word,
                             const Tensor& gate_image, const Tensor& word_weight, const Tensor& word_bias,
                             const Tensor& image_weight, const Tensor& image_bias, const Tensor& key_weight,
                             const Tensor& key_bias, const Tensor& value_weight, const Tensor& value_bias) {
  const Sizes s = describe(words, image_mean);
  const Parameters p{Floats(gate_word),    Floats(gate_image), Floats(word_weight), Floats(word_bias),
                     Floats(image_weight), Floats(image_bias), Floats(key_weight),  Floats(key_bias),
                     Floats(value_weight), Floats(value_bias)};
  const Floats all_words(words), means(image_mean), keys(key), values(value), grad_keys(grad_key),
      grad_values(grad_value);
  const int64_t sample_floats = Sample::floats(s), gradient_floats = Gradients::floats(s);
  const int64_t word_width = round_up(s.word_channels, kLanes), memory_width = round_up(s.memory(), kLanes);
  const auto samples = unset(s.batch * sample_floats), gradients = unset(s.batch * gradient_floats);
  const auto by_word = unset(s.batch * s.words * word_width), memory_by_word = unset(s.batch * s.words * memory_width);
  Result of_words(words, s.words), of_mean(image_mean, s.channels);
  torch::stable::parallel_for(0, s.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const Sample x(samples.get() + b * sample_floats, s);
      const Gradients g(gradients.get() + b * gradient_floats, s);
      const int64_t first = b * s.channels * s.words;
      pad_rows(all_words + b * s.word_channels * s.words, s.word_channels, s, x.words);
      pad_rows(keys + first, s.channels, s, x.key);
      pad_rows(values + first, s.channels, s, x.value);
      pad_rows(grad_keys + first, s.channels, s, g.key);
      pad_rows(grad_values + first, s.channels, s, g.value);
      write_memory(s, p, means + b * s.channels, x);
      backward_sample(s, p, x, g);
      transpose_rows(x.words, s.word_channels, s, word_width, by_word.get() + b * s.words * word_width);
      transpose_rows(x.memory, s.memory(), s, memory_width, memory_by_word.get() + b * s.words * memory_width);
      unpad_rows(g.words, s.word_channels, s, static_cast<float*>(of_words) + b * s.word_channels * s.words);
      std::copy_n(g.image_mean, s.channels, static_cast<float*>(of_mean) + b * s.channels);
    }
  });

  const Gradients g(gradients.get(), s);  // of the first sample; the others follow at equal steps
  const int64_t memory = s.memory(), channels = s.channels, step = gradient_floats;
  Result of_gate_word(gate_word, word_width), of_gate_image(gate_image, channels), of_word_weight(word_weight, word_width),
      of_word_bias(word_bias, memory), of_image_weight(image_weight, channels), of_image_bias(image_bias, memory),
      of_key_weight(key_weight, memory_width), of_key_bias(key_bias, channels),
      of_value_weight(value_weight, memory_width), of_value_bias(value_bias, channels);
  constexpr int64_t kRows = 12;
  torch::stable::parallel_for(0, (memory + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kRows, last = std::min(end * kRows, memory), until = std::min(last, channels);
    outer_rows(s, first, last, word_width, g.written, step, by_word.get(), of_word_weight);
    sum_rows(s, first, last, g.written, step, of_word_bias);
    for (int64_t j = first; j < last; ++j) {
      sum_scaled(s, g.image + j, step, means, channels, of_image_weight + j * channels);
      of_image_bias[j] = 0.0f;
      for (int64_t b = 0; b < s.batch; ++b) of_image_bias[j] += g.image[b * step + j];
    }
    if (first == 0) {
      outer_rows(s, 0, 1, word_width, g.gate, step, by_word.get(), of_gate_word);
      sum_scaled(s, g.gate_total, step, means, channels, of_gate_image);
    }
    if (first >= channels) return;
    outer_rows(s, first, until, memory_width, g.key, step, memory_by_word.get(), of_key_weight);
    outer_rows(s, first, until, memory_width, g.value, step, memory_by_word.get(), of_value_weight);
    sum_rows(s, first, until, g.key, step, of_key_bias);
    sum_rows(s, first, until, g.value, step, of_value_bias);
  });
  return {of_words.tensor(),       of_mean.tensor(),        of_gate_word.tensor(),  of_gate_image.tensor(),
          of_word_weight.tensor(), of_word_bias.tensor(),   of_image_weight.tensor(), of_image_bias.tensor(),
          of_key_weight.tensor(),  of_key_bias.tensor(),    of_value_weight.tensor(), of_value_bias.tensor()};
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, memory_write_forward)
DMGAN_REGISTER(DMGAN_CPU, CPU, memory_write_backward)
