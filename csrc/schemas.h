// What every native library registers (docs/backends.md), and what it was built for. One place for CPU and CUDA.
#pragma once
#include <torch/csrc/stable/library.h>

#include <cstdint>

// Registers dmgan::NAME, for tensors of a device, as the operator of LIBRARY whose schema has that name.
#define DMGAN_REGISTER(LIBRARY, DEVICE, NAME)                                \
  STABLE_TORCH_LIBRARY_FRAGMENT(LIBRARY, m) { m.def(dmgan::schemas::NAME); } \
  STABLE_TORCH_LIBRARY_IMPL(LIBRARY, DEVICE, m) { m.impl(#NAME, TORCH_BOX(&dmgan::NAME)); }

namespace dmgan {

// The oldest torch this build runs on, as major * 1000 + minor; dmgan_fast/native.py asks for it.
inline int64_t target_version() {
  constexpr uint64_t target = TORCH_TARGET_VERSION;
  return static_cast<int64_t>((target >> 56) * 1000 + ((target >> 48) & 0xff));
}

namespace schemas {

inline constexpr const char* target_version = "target_version() -> int";

inline constexpr const char* memory_write_forward =
    "memory_write_forward(Tensor words, Tensor image_mean, Tensor gate_word, Tensor gate_image, Tensor word_weight, "
    "Tensor word_bias, Tensor image_weight, Tensor image_bias, Tensor key_weight, Tensor key_bias, "
    "Tensor value_weight, Tensor value_bias) -> (Tensor, Tensor)";
inline constexpr const char* memory_write_backward =
    "memory_write_backward(Tensor grad_key, Tensor grad_value, Tensor key, Tensor value, Tensor words, "
    "Tensor image_mean, Tensor gate_word, Tensor gate_image, Tensor word_weight, Tensor word_bias, "
    "Tensor image_weight, Tensor image_bias, Tensor key_weight, Tensor key_bias, Tensor value_weight, "
    "Tensor value_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
    "Tensor)";

inline constexpr const char* memory_read_forward =
    "memory_read_forward(Tensor h, Tensor key, Tensor value, Tensor? gate_weight, Tensor? gate_bias, "
    "Tensor? padding_mask, bool official, bool want_attention, bool want_gate) -> (Tensor, Tensor, Tensor, Tensor)";
inline constexpr const char* memory_read_backward =
    "memory_read_backward(Tensor grad_out, Tensor? grad_attention, Tensor? grad_gate, Tensor h, Tensor key, "
    "Tensor value, Tensor? gate_weight, Tensor? gate_bias, Tensor? padding_mask, Tensor lse, bool official) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)";

inline constexpr const char* batch_norm_glu_statistics =
    "batch_norm_glu_statistics(Tensor x) -> (Tensor, Tensor)";
inline constexpr const char* batch_norm_glu_forward =
    "batch_norm_glu_forward(Tensor x, Tensor? weight, Tensor? bias, Tensor? skip, Tensor? mean, Tensor? var, "
    "float eps, bool want_mean) -> (Tensor, Tensor, Tensor, Tensor, Tensor)";
inline constexpr const char* batch_norm_glu_reduce =
    "batch_norm_glu_reduce(Tensor grad_y, Tensor? grad_mean, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor rstd, bool glu) -> Tensor";
inline constexpr const char* batch_norm_glu_backward =
    "batch_norm_glu_backward(Tensor grad_y, Tensor? grad_mean, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor rstd, bool glu, bool training, Tensor? sums, float count) -> (Tensor, Tensor, Tensor)";

inline constexpr const char* upsample_conv3x3_forward =
    "upsample_conv3x3_forward(Tensor x, Tensor weight) -> Tensor";
inline constexpr const char* upsample_conv3x3_backward =
    "upsample_conv3x3_backward(Tensor grad_y, Tensor x, Tensor weight, bool want_x, bool want_weight) "
    "-> (Tensor, Tensor)";

inline constexpr const char* conv3x3_forward =
    "conv3x3_forward(Tensor x, Tensor weight, Tensor? bias) -> Tensor";
inline constexpr const char* conv3x3_backward =
    "conv3x3_backward(Tensor grad_y, Tensor x, Tensor weight, bool want_x, bool want_weight) -> (Tensor, Tensor)";

inline constexpr const char* conv4x4_stride2_forward =
    "conv4x4_stride2_forward(Tensor x, Tensor weight, Tensor? bias) -> Tensor";
inline constexpr const char* conv4x4_stride2_backward =
    "conv4x4_stride2_backward(Tensor grad_y, Tensor x, Tensor weight, bool want_x, bool want_weight) "
    "-> (Tensor, Tensor)";

inline constexpr const char* folded_conv3x3_forward =
    "folded_conv3x3_forward(Tensor x, Tensor conv_weight, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
    "Tensor? skip, float eps, bool upsample) -> Tensor";

inline constexpr const char* words_similarity_forward =
    "words_similarity_forward(Tensor regions, Tensor words, Tensor lengths, float gamma1, float gamma2) -> Tensor";
inline constexpr const char* words_similarity_backward =
    "words_similarity_backward(Tensor grad, Tensor scores, Tensor regions, Tensor words, Tensor lengths, "
    "float gamma1, float gamma2) -> (Tensor, Tensor)";

inline constexpr const char* relayout = "relayout(Tensor x) -> Tensor";

}  // namespace schemas
}  // namespace dmgan
