#pragma once
#include <stddef.h>
#include <stdint.h>
// Softmax attention of the query heads that share one key-value head, without ever storing the score matrix.
//
//   o_i = Σ_j softmax_j(scale · q_i·k_j) v_j  over visible j;  key j is visible to token i at position p = past + i iff
//   (not causal or j ≤ p) and (window = 0 or |p − j| < window); or, where `visible` is given, iff j < visible[i].
//
// Legend: T tokens (queries), S keys, G query heads of the group, d head width. Rows are the G·T pairs (head, token), head
// first. Pointers name the first element of the group's first head (or of the key-value head) of one sample; `*_stride`
// is the distance in floats from one token to the next; heads of a group lie d apart.
typedef struct {
  size_t tokens, keys, group, width;
  size_t past;   ///< position of the first token; keys are at positions 0 ..< keys
  size_t window; ///< 0 = unlimited
  int causal;
  const int32_t *visible; ///< [T] or null: how many of the first keys each token sees; instead of all other rules
  float scale;
  size_t q_stride, k_stride, v_stride, out_stride;
} ck_attention_shape;

/// Floats of 64-byte aligned scratch needed for one call; O(G·T·d), independent of the number of keys.
size_t ck_attention_scratch(const ck_attention_shape *shape, int backward);

/// out: rows as q, lse: [G, T], log Σ_j e^{scale·q·k}, in nats. A row that sees no key gives 0 and −∞.
/// `sink`: [G] or null; one more logit per head whose value is 0.
/// Key blocks are visited in ascending order and anchored at key 0: a token's result does not depend on how many others
/// are computed with it.
void ck_attention_forward(float *out, float *lse, const float *q, const float *k, const float *v, const float *sink,
                          const ck_attention_shape *shape, float *scratch);

/// Gradients of the above, overwriting dq (strides of q), dk (of k), dv (of v); dk and dv are summed over the rows in order. dout has the
/// strides of out. `delta`: [G, T], receives Σ dout·out of each row (the gradient of a sink is −Σ_i e^{sink − lse_i}·delta_i).
void ck_attention_backward(float *dq, float *dk, float *dv, float *delta, const float *dout, const float *out,
                           const float *lse, const float *q, const float *k, const float *v,
                           const ck_attention_shape *shape, float *scratch);
