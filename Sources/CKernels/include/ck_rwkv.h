#pragma once
#include <stddef.h>
// Pieces of RWKV-4 (arXiv 2305.13048). Channels do not influence each other; sums over time run downwards.

// The weighted average of values: with P = p e^o and Q = q e^o, where o follows the largest exponent so far,
//   y = (P + e^{u+k} v) / (Q + e^{u+k}),  P ← e^w P + e^k v,  Q ← e^w Q + e^k,  o ← max(w + o, k).
// No exponential of a positive number is ever formed.

enum { CK_WKV_STEPS = 16 }; ///< longest stretch of a backward call

/// One stretch of one sequence; `row` is the distance between its time steps in floats, for all operands and results.
typedef struct {
  size_t steps, channels;
  ptrdiff_t row;
  const float *k, *v;
  const float *w, *u; ///< [channels]; w ≤ 0
} ck_wkv_stretch;

/// p, q and o: the state, [channels] each, `plane` floats apart.
void ck_wkv_forward(const ck_wkv_stretch *in, float *state, ptrdiff_t plane, float *y);
/// `state`: before the stretch. `g`: dL/dp, dL/dq with p e^o and q e^o held, and dL/do with p and q held minus what
/// comes through them, after the stretch on entry, before it on exit. dw and du are added to.
void ck_wkv_backward(
    const ck_wkv_stretch *in, const float *state, float *g, ptrdiff_t plane, const float *dy, float *dk, float *dv,
    float *dw, float *du);
/// value = a p + b q, rounded as the backward does: what moving o alone does to P and Q.
void ck_wkv_scale_gradient(float *value, const float *a, const float *p, const float *b, const float *q, size_t n);

// Token shift, one row: y = before + mix ⊙ (x − before); `before` null is zero.
void ck_token_shift(float *y, const float *x, const float *before, const float *mix, size_t n);
/// dx (+)= mix ⊙ dy + (1 − mix) ⊙ dnext, either gradient null for zero.
void ck_token_shift_input_gradient(float *dx, const float *dy, const float *dnext, const float *mix, size_t n, int accumulate);
/// dmix += dy ⊙ (x − before)
void ck_token_shift_mix_gradient(float *dmix, const float *dy, const float *x, const float *before, size_t n);
