#pragma once
#include <stddef.h>
#include <stdint.h>
// Matrix memories with a forget gate per key channel, in chunks of 64 tokens cut in tiles of 16. Per head:
//
//   S_t = diag(f_t) S_{t−1} + k_t v_tᵀ,   o_t = scale · q_tᵀ S_t,   f_t = e^{log_decay_t} ∈ [0, 1]^K
//
// Legend: T tokens, H heads of one task, K key width, V value width. Consecutive heads may share keys, decays and values.
// Orders of summation depend on T, K and V alone.
typedef struct {
  size_t tokens, heads, key_width, value_width;
  size_t key_share; ///< consecutive heads that read the same k, decays and v; 1: each its own
  size_t q_stride, k_stride, v_stride, decay_stride, out_stride; ///< floats from token to token; heads lie K or V apart
  float scale;
} ck_channel_memory_shape;

typedef struct {
  const float *q, *k, *v, *log_decay; ///< log_decay ≤ 0
  const float *state;                 ///< before the first token, [H, K, V]; null: zeros
} ck_channel_memory_inputs;

typedef struct {
  const float *dout;
  const float *dstate; ///< of the final state; null: zeros
  float *dq, *dk, *dv, *dlog_decay; ///< strides of the inputs; overwritten
  float *dpast;        ///< of the initial state; null: not wanted
  const float *kept;
} ck_channel_memory_gradients;

/// Floats that the forward keeps: the state before every chunk.
size_t ck_channel_memory_kept(const ck_channel_memory_shape *shape);
/// Floats of 64-byte aligned scratch for one call; independent of T.
size_t ck_channel_memory_scratch(const ck_channel_memory_shape *shape, int backward);
/// out, the state after the last token [H, K, V] (null: not wanted), and what the backward needs (null: no backward).
void ck_channel_memory_forward(float *out, float *state, float *kept, const ck_channel_memory_inputs *in, const ck_channel_memory_shape *shape, float *scratch);
void ck_channel_memory_backward(const ck_channel_memory_gradients *to, const ck_channel_memory_inputs *in, const ck_channel_memory_shape *shape, float *scratch);
