#pragma once
#include <stddef.h>
// Running averages of a sequence, and the gates around them.

// ---- Softmax attention of one fixed query, as a recurrence over one head of one sequence:
//   m_t = max(m, s_t), u_t = u e^{m − m_t} + e^{s_t − m_t}, w_t = w e^{m − m_t} + e^{s_t − m_t} v_t, o_t = w_t / u_t.
// T tokens, d head width. Scores and v have their own strides from token to token; out has that of v.

/// `m`, `u`, `w [d]`: state before the first token (m = −∞, u = 0, w = 0 at a sequence's start), replaced by the last.
/// `weights`, `shrinks`, `sums` [T] receive e^{s_t − m_t}, e^{m_{t−1} − m_t} and u_t, for the backward.
void ck_running_softmax(float *out, float *m, float *u, float *w, float *weights, float *shrinks, float *sums,
                        const float *scores, size_t score_stride, const float *v, size_t stride, size_t time, size_t d);
/// `du`, `dw [d]`: gradient of the final state, replaced by that of the initial one. m carries no gradient.
void ck_running_softmax_backward(float *dscores, float *dv, float *du, float *dw, const float *dout, const float *out,
                                 const float *weights, const float *shrinks, const float *sums, size_t score_stride,
                                 const float *v, size_t stride, size_t time, size_t d);

// ---- Damped exponential moving averages (MEGA, arXiv 2209.10655), N of each of D channels, one sequence:
//   h_t,n = decay_n h_{t−1,n} + input_n x_t,   y_t = Σ_n output_n h_t,n + skip x_t.
// Coefficients are [N, D], skip [D]; x, y [T, D]; states [D, N]. All functions treat channels first ..< first + 16 at
// most, so that callers can share channels out.

enum { CK_AVERAGE_BLOCK = 64, CK_AVERAGE_STATES = 32 }; // tokens between kept states; most N

typedef struct {
  size_t time, channels, states;
  const float *decay, *input, *output, *skip;
} ck_average_shape;

/// `kept` [⌈T/64⌉, N, D] receives the state before every block; null: none. `state_in` null: zero.
void ck_average(float *y, float *state_out, float *kept, const float *x, const float *state_in,
                const ck_average_shape *shape, size_t first);
/// dcoefficients [3N + 1, D]: decay, input, output, skip, of this sequence. `scratch`: (64 + 1)·N·16 floats.
void ck_average_backward(float *dx, float *dstate_in, float *dcoefficients, const float *dy, const float *dstate_out,
                         const float *x, const float *kept, const ck_average_shape *shape, size_t first, float *scratch);

// ---- Rows of attention weights with a bias, from scores s over n keys, of which the first `visible` count; 0 beyond.
enum { CK_WEIGHTS_SOFTMAX = 0, CK_WEIGHTS_LAPLACE = 1, CK_WEIGHTS_RELU2 = 2 };
/// p = softmax(s·scale + bias), or f(s·scale + bias) for f(s) = Φ((s − √½) / (4π)^(−½)) or max(s, 0)². p may be s.
void ck_biased_weights(float *p, const float *s, const float *bias, float scale, int kind, size_t visible, size_t n);
/// From dp and the scores: the weights p, dp becomes that of s, and dbias += that of the bias.
void ck_biased_weights_backward(float *p, float *dp, float *dbias, const float *s, const float *bias, float scale,
                                int kind, size_t visible, size_t n);

// ---- Gates
/// y = x + σ(a)(silu(c + e) − x)
void ck_gated_residual(float *y, const float *x, const float *a, const float *c, const float *e, size_t n);
/// dc is also de.
void ck_gated_residual_backward(float *dx, float *da, float *dc, const float *dy, const float *x, const float *a,
                         const float *c, const float *e, size_t n);
/// y = σ(a) l + σ(b) g
void ck_gated_sum(float *y, const float *a, const float *l, const float *b, const float *g, size_t n);
void ck_gated_sum_backward(float *da, float *dl, float *db, float *dg, const float *dy, const float *a, const float *l,
                           const float *b, const float *g, size_t n);
