#pragma once
#include <stddef.h>
#include <stdint.h>
// Matrix memories with one forget gate per head and token, in chunks of CK_MEMORY_CHUNK tokens. Per head:
//
//   S_t = f_t S_{t−1} + i_t k_t ṽ_tᵀ,   o_t = scale · q_tᵀ S_t + d·v_t,   ṽ_t = u_t v_t,   f_t = e^{log_decay}, i_t = e^{log_input}
//
// and, when normalised, n_t = f_t n_{t−1} + i_t k_t, σ_t = scale · q_t·n_t, o_t = scale · q_tᵀ S_t / den_t. With `exponential`,
// everything is kept times e^{−m_t}, m_t = max(log f_t + m_{t−1}, log i_t) (arXiv 2405.04517), and
// den = max(|σ|, e^{−m}) + ε; otherwise den = max(|σ|, floor) + ε, or σ + ε when floor is negative.
//
// Legend: T tokens, H heads of one task, K key width, V value width. Consecutive heads may share queries, keys or values.
// With `raw_width` f, queries and keys come as rows of f channels, of which K = 1 + f + f(f+1)/2 features are made where they are
// used: 1, x / f^¼, then x_i x_j / √f for j > i with x_i² / √(2f) at j = i, i by i. φ(q)·φ(k) is the second-order Taylor
// polynomial of exp(q·k / √f). Negative strides run the time backwards: pointers are to the token that comes first.
// Orders of summation depend on T, K and V alone.
enum { CK_MEMORY_CHUNK = 64 };

typedef struct {
  size_t tokens, heads, key_width, value_width;
  size_t raw_width;                            ///< f; 0: queries and keys are given as they are
  size_t query_share, key_share, value_share; ///< consecutive heads that read the same q, k, v; 1: each its own
  ptrdiff_t q_stride, k_stride, v_stride, out_stride; ///< floats from token to token; heads lie K (or f) or V apart
  ptrdiff_t gate_stride; ///< the same for log_decay, log_input, value_scale; heads are neighbours
  float scale;
  int exponential, normalized;
  float floor, epsilon;
  int transposed; ///< the state outside is [V, K] instead of [K, V]
} ck_memory_shape;

/// Inputs of a task. log_decay ≤ 0. Null gates are neutral: f = 1, i = 1, u = 1, d = 0.
typedef struct {
  const float *q, *k, *v; ///< q null: nobody asks, only the state is computed
  const float *log_decay, *log_input, *value_scale; ///< [T, gate_stride], first head
  const float *skip;                                ///< d, [H]
  const float *state, *norm, *maximum;              ///< before the first token: [H, K, V], [H, K], [H]; null: zeros
} ck_memory_inputs;

typedef struct {
  float *out;                      ///< null without q
  int add;                         ///< add to out
  float *denominator, *slope;      ///< [T, gate_stride], kept for the backward when normalised: den and ∂den/∂σ
  float *state, *norm, *maximum;   ///< after the last token
  float *kept;                     ///< ck_memory_kept floats for the backward, or null
} ck_memory_results;

typedef struct {
  const float *dout, *out;         ///< null without q; out only when normalised
  const float *denominator, *slope;
  const float *dstate, *dnorm, *dmaximum; ///< of the final state; null: zeros
  const float *state, *norm;       ///< the final state; only when exponential
  float *dq, *dk, *dv;             ///< strides of q, k, v; overwritten
  int add_values;                  ///< add to dv
  float *dlog_decay, *dlog_input, *dvalue_scale; ///< strides of the gates; null where there is no gate
  float *dskip;                    ///< [H]
  float *dpast, *dpast_norm, *dpast_maximum; ///< of the initial state; null: not wanted
  const float *kept;
} ck_memory_gradients;

/// Floats that the forward keeps: the state before every chunk.
size_t ck_memory_kept(const ck_memory_shape *shape);
/// Floats of 64-byte aligned scratch for one call; independent of T.
size_t ck_memory_scratch(const ck_memory_shape *shape, int backward);
void ck_memory_forward(const ck_memory_shape *shape, const ck_memory_inputs *in, const ck_memory_results *to, float *scratch);
void ck_memory_backward(const ck_memory_shape *shape, const ck_memory_inputs *in, const ck_memory_gradients *to, float *scratch);
