#pragma once
#include <stddef.h>
#include <stdint.h>
// Recurrent cells whose state stays in its channel: one sequence, `time` steps, `n` neighbouring channels. Rows of `gates` hold
// G gates, `width` floats apart, so a row is G·width floats; all other rows are `width` floats. The state before the first step
// comes in `h` (and `c`), the last one leaves there. Backward loops go from the last step to the first; `dh` (and `dc`) are the
// gradient of the last state on entry and of the first on exit, `h0` and `c0` the initial state, null for zeros, `dy` null for
// zeros. A channel's result depends on nothing else.

/// Gates hidden, z. h ← (1 − σ(z)) h + σ(z) g, g = hidden, or when `positive` v + ½ (v ≥ 0), σ(v) (v < 0). Gates become g, σ(z).
void ck_min_gru(float *gates, float *y, float *h, size_t time, size_t n, size_t width, int positive);
/// Gates become gradients.
void ck_min_gru_backward(float *gates, const float *y, const float *h0, const float *dy, float *dh, size_t time, size_t n, size_t width, int positive);

/// Gates hidden, f, i. h ← f' h + i' g with f' = σ(f) / (σ(f) + σ(i)) = 1 − i'. Gates become g, f' i' (1 − σ(f)), f' i' (1 − σ(i)); f' goes to `forget`.
void ck_min_lstm(float *gates, float *forget, float *y, float *h, size_t time, size_t n, size_t width, int positive);
void ck_min_lstm_backward(float *gates, const float *forget, const float *y, const float *h0, const float *dy, float *dh, size_t time, size_t n, size_t width, int positive);

/// Gates z, r, n with a diagonal recurrence `a`, three rows. n = tanh(a_n h r + u_n), h ← z n + (1 − z) h. Gates become activated.
void ck_diagonal_gru(float *gates, const float *a, float *y, float *h, size_t time, size_t n, size_t width);
/// Gates become gradients; `da`, three rows, is added to.
void ck_diagonal_gru_backward(float *gates, const float *a, const float *y, const float *h0, const float *dy, float *dh, float *da, size_t time, size_t n, size_t width);
/// One Newton step's linearisation. `s` are guesses of the states, `before` what precedes the first, `gates` pre-activations. Out: δ_t = r_t + J_t δ_{t−1},
/// δ_{−1} = 0, with r_t the residual of the guess and J_t the cell's derivative; Π_t = J_t ⋯ J_0. Returns max |r|, NaN if any is.
float ck_diagonal_gru_newton(const float *gates, const float *a, const float *s, const float *before, float *delta, float *product, size_t time, size_t n, size_t width);

/// Gates f, o, g with diagonal recurrences `a` on h, three rows, and `p` on c, two. c ← f c + (1 − f) g; h ← σ(a_o h + p_o c + u_o) tanh c, with the new c. Gates
/// become activated, `cells` is every c.
void ck_diagonal_lstm(float *gates, const float *a, const float *p, float *cells, float *y, float *h, float *c, size_t time, size_t n, size_t width);
/// `da`, five rows: of `a`, then of `p`.
void ck_diagonal_lstm_backward(float *gates, const float *a, const float *p, const float *cells, const float *y, const float *h0, const float *c0, const float *dy, float *dh, float *dc, float *da, size_t time, size_t n, size_t width);
/// As ck_diagonal_gru_newton, for guesses in `cells` and `y`; `delta` has c and h, `plane` floats apart, `product` [cc, ch, hc, hh].
float ck_diagonal_lstm_newton(const float *gates, const float *a, const float *p, const float *cells, const float *y, const float *c_before, const float *h_before, float *delta, float *product, size_t plane, size_t time, size_t n, size_t width);
