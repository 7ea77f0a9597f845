#pragma once
#include <stddef.h>
// The gated delta rule of one head of one sequence, in chunks.
//
//   S̃_t = e^{g_t} S_{t−1};  for each of the n steps of token t:  S̃ ← S̃ + k (β (v − S̃ᵀk))ᵀ;  S_t = S̃;  o_t = S_tᵀ q̂_t
//
// with k the unit vector of its input, k = x (Σx² + 1e-6)^(−½), and q̂ = scale times that of the query's. One step: gated
// DeltaNet (arXiv 2412.06464); without decay: DeltaNet (2406.06484); n steps: DeltaProduct (2502.10297).
//
// Legend: T tokens, n steps of a token, K key width, V value width. Rows are the n·T pairs (token, step).
typedef struct {
  size_t tokens, steps, key_width, value_width;
  float scale;
  // Floats from one token to the next, and from one step of a token to the next.
  size_t query_stride, key_stride, key_step, value_stride, value_step, beta_stride, beta_step, decay_stride, out_stride;
} ck_delta_shape;

enum { CK_DELTA_ROWS = 64 };

/// Tokens of a chunk, for 1 ≤ steps ≤ CK_DELTA_ROWS.
static inline size_t ck_delta_chunk(size_t steps) { return CK_DELTA_ROWS / steps; }

/// Floats of 64-byte aligned scratch needed for one call; does not depend on the number of tokens.
size_t ck_delta_scratch(const ck_delta_shape *shape, int backward);

/// out [T, V]; `state_in`, `state_out` [K, V] contiguous, `state_in` null for zero. `log_decay` (≤ 0) null for none.
/// `states`: [⌈T / chunk⌉, K, V], receives the state before every chunk; null: not kept.
void ck_delta_forward(float *out, float *state_out, float *states, const float *q, const float *k, const float *v,
                      const float *beta, const float *log_decay, const float *state_in, const ck_delta_shape *shape,
                      float *scratch);

typedef struct {
  float *q, *k, *v, *beta; ///< laid out as the inputs
  float *log_decay;        ///< null when there is none
  float *state_in;         ///< [K, V]
  int accumulate;          ///< add to q and k instead of replacing them: heads that share them
} ck_delta_gradients;

/// Gradients of the above. `dout` has the stride of out; `dstate_out` [K, V] may be null.
void ck_delta_backward(const ck_delta_gradients *gradients, const float *dout, const float *dstate_out, const float *q,
                       const float *k, const float *v, const float *beta, const float *log_decay, const float *states,
                       const ck_delta_shape *shape, float *scratch);
