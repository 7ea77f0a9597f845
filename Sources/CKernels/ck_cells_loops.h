// The loops of ck_cells.h, for one variant; included by ck_cells.c. Formulas and shapes are in ck_cells.h. The channels of a step
// are independent and follow each other in memory, so the loop over steps is the outer one and the state stays in L1.
#include "ck_vector_variant.h"

#define v_positive CK_NAME(ck_cells_positive)
#define v_positive_slope CK_NAME(ck_cells_positive_slope)
#define v_larger CK_NAME(ck_cells_larger)

// v + ½ for v ≥ 0, σ(v) below: positive, continuous.
CK_INLINE vf v_positive(vf v) { return v_select(v >= 0.0f, v + 0.5f, v_sigmoid(v)); }
// Its derivative, from its value.
CK_INLINE vf v_positive_slope(vf g) { return v_select(g >= 0.5f, v_all(1.0f), g * (1.0f - g)); }

// max(a, |b|) in which a NaN wins.
CK_INLINE vf v_larger(vf a, vf b) {
  b = v_absolute(b);
  return v_select(a >= b, a, v_select(a != a, a, b));
}

CK_LOOP void CK_NAME(ck_min_gru)(float *gates, float *y, float *h, size_t time, size_t n, size_t width, int positive) {
  for (size_t t = 0; t < time; t++) {
    float *hidden = gates + t * 2 * width, *gate = hidden + width, *out = y + t * width;
    EACH(n, {
      vf g = LOAD(hidden), z = v_sigmoid(LOAD(gate));
      if (positive) g = v_positive(g);
      vf next = (1.0f - z) * LOAD(h) + z * g;
      STORE(hidden, g);
      STORE(gate, z);
      STORE(h, next);
      STORE(out, next);
    });
  }
}

CK_LOOP void CK_NAME(ck_min_gru_backward)(float *gates, const float *y, const float *h0, const float *dy, float *dh, size_t time, size_t n, size_t width, int positive) {
  for (size_t t = time; t-- > 0;) {
    float *hidden = gates + t * 2 * width, *gate = hidden + width;
    const float *before = t > 0 ? y + (t - 1) * width : h0, *from = dy ? dy + t * width : 0;
    EACH(n, {
      vf g = LOAD(hidden), z = LOAD(gate), d = LOAD(dh), past = before ? LOAD(before) : v_all(0.0f);
      if (from) d += LOAD(from);
      STORE(hidden, positive ? d * z * v_positive_slope(g) : d * z);
      STORE(gate, d * (g - past) * (z * (1.0f - z)));
      STORE(dh, d * (1.0f - z));
    });
  }
}

CK_LOOP void CK_NAME(ck_min_lstm)(float *gates, float *forget, float *y, float *h, size_t time, size_t n, size_t width, int positive) {
  for (size_t t = 0; t < time; t++) {
    float *hidden = gates + t * 3 * width, *f = hidden + width, *in = f + width, *out = y + t * width, *kept = forget + t * width;
    EACH(n, {
      vf g = LOAD(hidden), fg = LOAD(f), ig = LOAD(in);
      if (positive) g = v_positive(g);
      // The ratio of two sigmoids that may both underflow, by their logarithms.
      vf d = v_softplus(-ig) - v_softplus(-fg), keep = v_sigmoid(d), take = v_sigmoid(-d), both = keep * take;
      vf next = keep * LOAD(h) + take * g;
      STORE(hidden, g);
      STORE(f, both * v_sigmoid(-fg));
      STORE(in, both * v_sigmoid(-ig));
      STORE(kept, keep);
      STORE(h, next);
      STORE(out, next);
    });
  }
}

CK_LOOP void CK_NAME(ck_min_lstm_backward)(float *gates, const float *forget, const float *y, const float *h0, const float *dy, float *dh, size_t time, size_t n, size_t width, int positive) {
  for (size_t t = time; t-- > 0;) {
    float *hidden = gates + t * 3 * width, *f = hidden + width, *in = f + width;
    const float *before = t > 0 ? y + (t - 1) * width : h0, *from = dy ? dy + t * width : 0, *kept = forget + t * width;
    EACH(n, {
      vf g = LOAD(hidden), keep = LOAD(kept), d = LOAD(dh), past = before ? LOAD(before) : v_all(0.0f);
      if (from) d += LOAD(from);
      vf of_ratio = d * (past - g), of_input = d * (1.0f - keep);
      STORE(hidden, positive ? of_input * v_positive_slope(g) : of_input);
      STORE(f, of_ratio * LOAD(f));
      STORE(in, -of_ratio * LOAD(in));
      STORE(dh, d * keep);
    });
  }
}

CK_LOOP void CK_NAME(ck_diagonal_gru)(float *gates, const float *a, float *y, float *h, size_t time, size_t n, size_t width) {
  const float *az = a, *ar = a + width, *an = a + 2 * width;
  for (size_t t = 0; t < time; t++) {
    float *uz = gates + t * 3 * width, *ur = uz + width, *un = ur + width, *out = y + t * width;
    EACH(n, {
      vf old = LOAD(h);
      vf z = v_sigmoid(LOAD(az) * old + LOAD(uz)), r = v_sigmoid(LOAD(ar) * old + LOAD(ur));
      vf new = v_tanh(LOAD(an) * old * r + LOAD(un)), next = z * new + (1.0f - z) * old;
      STORE(uz, z);
      STORE(ur, r);
      STORE(un, new);
      STORE(h, next);
      STORE(out, next);
    });
  }
}

CK_LOOP void CK_NAME(ck_diagonal_gru_backward)(float *gates, const float *a, const float *y, const float *h0, const float *dy, float *dh, float *da, size_t time, size_t n, size_t width) {
  const float *az = a, *ar = a + width, *an = a + 2 * width;
  float *daz = da, *dar = da + width, *dan = da + 2 * width;
  for (size_t t = time; t-- > 0;) {
    float *uz = gates + t * 3 * width, *ur = uz + width, *un = ur + width;
    const float *before = t > 0 ? y + (t - 1) * width : h0, *from = dy ? dy + t * width : 0;
    EACH(n, {
      vf z = LOAD(uz), r = LOAD(ur), new = LOAD(un), d = LOAD(dh), old = before ? LOAD(before) : v_all(0.0f);
      if (from) d += LOAD(from);
      vf dn = d * z * (1.0f - new * new), dz = d * (new - old) * (z * (1.0f - z));
      vf of_product = dn * LOAD(an), dr = of_product * old * (r * (1.0f - r));
      STORE(uz, dz);
      STORE(ur, dr);
      STORE(un, dn);
      STORE(daz, LOAD(daz) + dz * old);
      STORE(dar, LOAD(dar) + dr * old);
      STORE(dan, LOAD(dan) + dn * old * r);
      STORE(dh, d * (1.0f - z) + dz * LOAD(az) + of_product * r + dr * LOAD(ar));
    });
  }
}

CK_LOOP float CK_NAME(ck_diagonal_gru_newton)(const float *gates, const float *a, const float *s, const float *before, float *delta, float *product, size_t time, size_t n, size_t width) {
  const float *az = a, *ar = a + width, *an = a + 2 * width;
  vf worst = v_all(0.0f);
  for (size_t t = 0; t < time; t++) {
    const float *uz = gates + t * 3 * width, *ur = uz + width, *un = ur + width, *guess = s + t * width;
    const float *past = t > 0 ? s + (t - 1) * width : before;
    float *d = delta + t * width, *m = product + t * width;
    EACH(n, {
      vf old = past ? LOAD(past) : v_all(0.0f);
      vf z = v_sigmoid(LOAD(az) * old + LOAD(uz)), r = v_sigmoid(LOAD(ar) * old + LOAD(ur));
      vf new = v_tanh(LOAD(an) * old * r + LOAD(un));
      vf residual = z * new + (1.0f - z) * old - LOAD(guess);
      vf slope = (1.0f - z) + (new - old) * LOAD(az) * (z * (1.0f - z))
          + z * (1.0f - new * new) * LOAD(an) * (r + old * LOAD(ar) * (r * (1.0f - r)));
      STORE(d, t > 0 ? residual + slope * LOAD(d - width) : residual);
      STORE(m, t > 0 ? slope * LOAD(m - width) : slope);
      worst = v_larger(worst, v_select(v_iota() < (int32_t)(count_ - i), residual, v_all(0.0f)));
    });
  }
  float result = 0;
  for (int lane = 0; lane < CK_LANES; lane++) result = result >= worst[lane] || result != result ? result : worst[lane];
  return result;
}

CK_LOOP void CK_NAME(ck_diagonal_lstm)(float *gates, const float *a, const float *p, float *cells, float *y, float *h, float *c, size_t time, size_t n, size_t width) {
  const float *af = a, *ao = a + width, *ag = a + 2 * width, *pf = p, *po = p + width;
  for (size_t t = 0; t < time; t++) {
    float *uf = gates + t * 3 * width, *uo = uf + width, *ug = uo + width, *out = y + t * width, *cell = cells + t * width;
    EACH(n, {
      vf old = LOAD(h), past = LOAD(c);
      vf f = v_sigmoid(LOAD(af) * old + LOAD(pf) * past + LOAD(uf)), g = v_tanh(LOAD(ag) * old + LOAD(ug));
      vf now = f * past + (1.0f - f) * g;
      vf o = v_sigmoid(LOAD(ao) * old + LOAD(po) * now + LOAD(uo)), next = o * v_tanh(now);
      STORE(uf, f);
      STORE(uo, o);
      STORE(ug, g);
      STORE(cell, now);
      STORE(c, now);
      STORE(h, next);
      STORE(out, next);
    });
  }
}

CK_LOOP void CK_NAME(ck_diagonal_lstm_backward)(float *gates, const float *a, const float *p, const float *cells, const float *y, const float *h0, const float *c0, const float *dy, float *dh, float *dc, float *da, size_t time, size_t n, size_t width) {
  const float *af = a, *ao = a + width, *ag = a + 2 * width, *pf = p, *po = p + width;
  float *daf = da, *dao = da + width, *dag = da + 2 * width, *dpf = da + 3 * width, *dpo = da + 4 * width;
  for (size_t t = time; t-- > 0;) {
    float *uf = gates + t * 3 * width, *uo = uf + width, *ug = uo + width;
    const float *h_before = t > 0 ? y + (t - 1) * width : h0, *c_before = t > 0 ? cells + (t - 1) * width : c0;
    const float *cell = cells + t * width, *from = dy ? dy + t * width : 0;
    EACH(n, {
      vf f = LOAD(uf), o = LOAD(uo), g = LOAD(ug), now = LOAD(cell), squashed = v_tanh(now), d = LOAD(dh);
      vf old = h_before ? LOAD(h_before) : v_all(0.0f), past = c_before ? LOAD(c_before) : v_all(0.0f);
      if (from) d += LOAD(from);
      vf d_o = d * squashed * (o * (1.0f - o));
      vf d_c = LOAD(dc) + d * o * (1.0f - squashed * squashed) + d_o * LOAD(po);
      vf d_f = d_c * (past - g) * (f * (1.0f - f)), d_g = d_c * (1.0f - f) * (1.0f - g * g);
      STORE(uf, d_f);
      STORE(uo, d_o);
      STORE(ug, d_g);
      STORE(daf, LOAD(daf) + d_f * old);
      STORE(dao, LOAD(dao) + d_o * old);
      STORE(dag, LOAD(dag) + d_g * old);
      STORE(dpf, LOAD(dpf) + d_f * past);
      STORE(dpo, LOAD(dpo) + d_o * now);
      STORE(dh, d_f * LOAD(af) + d_o * LOAD(ao) + d_g * LOAD(ag));
      STORE(dc, d_c * f + d_f * LOAD(pf));
    });
  }
}

CK_LOOP float CK_NAME(ck_diagonal_lstm_newton)(const float *gates, const float *a, const float *p, const float *cells, const float *y, const float *c_before, const float *h_before, float *delta, float *product, size_t plane, size_t time, size_t n, size_t width) {
  const float *af = a, *ao = a + width, *ag = a + 2 * width, *pf = p, *po = p + width;
  vf worst = v_all(0.0f);
  for (size_t t = 0; t < time; t++) {
    const float *uf = gates + t * 3 * width, *uo = uf + width, *ug = uo + width;
    const float *c_guess = cells + t * width, *h_guess = y + t * width;
    const float *c_past = t > 0 ? c_guess - width : c_before, *h_past = t > 0 ? h_guess - width : h_before;
    float *d = delta + t * width, *m = product + t * width;
    EACH(n, {
      vf past = c_past ? LOAD(c_past) : v_all(0.0f), old = h_past ? LOAD(h_past) : v_all(0.0f);
      vf f = v_sigmoid(LOAD(af) * old + LOAD(pf) * past + LOAD(uf)), g = v_tanh(LOAD(ag) * old + LOAD(ug));
      vf now = f * past + (1.0f - f) * g, squashed = v_tanh(now);
      vf o = v_sigmoid(LOAD(ao) * old + LOAD(po) * now + LOAD(uo));
      vf rc = now - LOAD(c_guess), rh = o * squashed - LOAD(h_guess);
      vf of_f = (past - g) * (f * (1.0f - f)), of_o = o * (1.0f - o) * squashed;
      vf cc = f + of_f * LOAD(pf), ch = of_f * LOAD(af) + (1.0f - f) * (1.0f - g * g) * LOAD(ag);
      vf k = of_o * LOAD(po) + o * (1.0f - squashed * squashed);
      vf hc = k * cc, hh = k * ch + of_o * LOAD(ao);
      worst = v_larger(worst, v_select(v_iota() < (int32_t)(count_ - i), rc, v_all(0.0f)));
      worst = v_larger(worst, v_select(v_iota() < (int32_t)(count_ - i), rh, v_all(0.0f)));
      if (t > 0) {
        vf dc = LOAD(d - width), dh = LOAD(d + plane - width);
        rc += cc * dc + ch * dh;
        rh += hc * dc + hh * dh;
        vf m0 = LOAD(m - width), m1 = LOAD(m + plane - width), m2 = LOAD(m + 2 * plane - width), m3 = LOAD(m + 3 * plane - width);
        vf cc1 = cc * m0 + ch * m2, ch1 = cc * m1 + ch * m3, hc1 = hc * m0 + hh * m2, hh1 = hc * m1 + hh * m3;
        cc = cc1;
        ch = ch1;
        hc = hc1;
        hh = hh1;
      }
      STORE(d, rc);
      STORE(d + plane, rh);
      STORE(m, cc);
      STORE(m + plane, ch);
      STORE(m + 2 * plane, hc);
      STORE(m + 3 * plane, hh);
    });
  }
  float result = 0;
  for (int lane = 0; lane < CK_LANES; lane++) result = result >= worst[lane] || result != result ? result : worst[lane];
  return result;
}
