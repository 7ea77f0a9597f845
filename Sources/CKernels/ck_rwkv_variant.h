// The loops of ck_rwkv.h, for one variant; included by ck_rwkv.c.
#include "ck_vector_variant.h"

#define wkv_state CK_NAME(ck_wkv_state)
#define larger CK_NAME(ck_wkv_larger)
#define advance CK_NAME(ck_wkv_advance)
#define scale_gradient CK_NAME(ck_wkv_scale_gradient_of)

typedef struct { vf p, q, o; } wkv_state;

// e^{a−m} and e^{b−m}, m = max(a, b): one of them is 1.
CK_INLINE vf larger(vf a, vf b, vf *ea, vf *eb) {
  vf e = v_exp((vf)((vi)(a - b) | (int32_t)0x80000000));
  vi first = a >= b;
  *ea = v_select(first, v_all(1.0f), e);
  *eb = v_select(first, e, v_all(1.0f));
  return v_select(first, a, b);
}

CK_INLINE wkv_state advance(wkv_state s, vf k, vf v, vf w) {
  vf old, new;
  vf o = larger(w + s.o, k, &old, &new);
  return (wkv_state){old * s.p + new * v, old * s.q + new, o};
}

CK_INLINE vf scale_gradient(vf a, vf p, vf b, vf q) { return a * p + b * q; }

CK_LOOP void CK_NAME(ck_wkv_forward)(const ck_wkv_stretch *in, float *state, ptrdiff_t plane, float *y) {
  for (size_t t = 0; t < in->steps; t++)
    EACH(in->channels, {
      float *p = state, *q = state + plane, *o = state + 2 * plane, *out = y + t * in->row;
      const float *keys = in->k + t * in->row, *values = in->v + t * in->row;
      wkv_state s = {LOAD(p), LOAD(q), LOAD(o)};
      vf k = LOAD(keys), v = LOAD(values), e1, e2;
      larger(s.o, LOAD(in->u) + k, &e1, &e2);
      STORE(out, (e1 * s.p + e2 * v) / (e1 * s.q + e2));
      s = advance(s, k, v, LOAD(in->w));
      STORE(p, s.p);
      STORE(q, s.q);
      STORE(o, s.o);
    });
}

// With a = dL/dP e^o, b = dL/dQ e^o after step t, E = e^{k−o}, W = e^{w+o'−o} (o' before the step), g = dy / den:
//   dv = e2 g + E a;  τ = e2 g (v − y);  dk = τ + E (a v + b);  du += τ;  dw += W (a p + b q);
//   a ← W a + e1 g;   b ← W b − e1 g y.
// What o itself receives goes to k or to w, whichever was larger.
CK_LOOP void CK_NAME(ck_wkv_backward)(
    const ck_wkv_stretch *in, const float *state, float *g, ptrdiff_t plane, const float *dy, float *dk, float *dv,
    float *dw, float *du) {
  EACH(in->channels, {
    wkv_state states[STEPS];
    wkv_state s = {LOAD(state), LOAD(state + plane), LOAD(state + 2 * plane)};
    vf w = LOAD(in->w), u = LOAD(in->u);
    for (size_t t = 0; t < in->steps; t++) {
      states[t] = s;
      s = advance(s, LOAD(in->k + t * in->row), LOAD(in->v + t * in->row), w);
    }
    vf a = LOAD(g), b = LOAD(g + plane), shift = LOAD(g + 2 * plane), w_sum = LOAD(dw), u_sum = LOAD(du);
    for (size_t t = in->steps; t-- > 0;) {
      s = states[t];
      vf k = LOAD(in->k + t * in->row), v = LOAD(in->v + t * in->row), e1, e2, old, new;
      larger(s.o, u + k, &e1, &e2);
      larger(w + s.o, k, &old, &new);
      vf inverse = 1.0f / (e1 * s.q + e2);
      vf y = (e1 * s.p + e2 * v) * inverse, slope = LOAD(dy + t * in->row) * inverse;
      vf current = e2 * slope, past = e1 * slope, through_current = current * (v - y);
      vi kept = w + s.o >= k;
      vf dk_t = through_current + new * (a * v + b), none = v_all(0.0f);
      STORE(dv + t * in->row, current + new * a);
      STORE(dk + t * in->row, dk_t + v_select(kept, none, shift));
      u_sum = u_sum + through_current;
      w_sum = w_sum + old * scale_gradient(a, s.p, b, s.q) + v_select(kept, shift, none);
      shift = v_select(kept, shift, none);
      a = old * a + past;
      b = old * b - past * y;
    }
    STORE(g, a);
    STORE(g + plane, b);
    STORE(g + 2 * plane, shift);
    STORE(dw, w_sum);
    STORE(du, u_sum);
  });
}

CK_LOOP void CK_NAME(ck_wkv_scale_gradient)(float *value, const float *a, const float *p, const float *b, const float *q, size_t n) {
  EACH(n, STORE(value, scale_gradient(LOAD(a), LOAD(p), LOAD(b), LOAD(q))););
}

CK_LOOP void CK_NAME(ck_token_shift)(float *y, const float *x, const float *before, const float *mix, size_t n) {
  EACH(n, {
    vf previous = before ? LOAD(before) : v_all(0.0f);
    STORE(y, LOAD(mix) * (LOAD(x) - previous) + previous);
  });
}

CK_LOOP void CK_NAME(ck_token_shift_input_gradient)(float *dx, const float *dy, const float *dnext, const float *mix, size_t n, int accumulate) {
  EACH(n, {
    vf sum = accumulate ? LOAD(dx) : v_all(0.0f), m = LOAD(mix);
    if (dy) sum = m * LOAD(dy) + sum;
    if (dnext) sum = (1.0f - m) * LOAD(dnext) + sum;
    STORE(dx, sum);
  });
}

CK_LOOP void CK_NAME(ck_token_shift_mix_gradient)(float *dmix, const float *dy, const float *x, const float *before, size_t n) {
  EACH(n, {
    vf difference = before ? LOAD(x) - LOAD(before) : LOAD(x);
    STORE(dmix, LOAD(dy) * difference + LOAD(dmix));
  });
}

#undef wkv_state
#undef larger
#undef advance
#undef scale_gradient
