// The loops of ck_average.h, for one variant; included by ck_average.c. Formulas and shapes are in ck_average.h.
#include "ck_vector_variant.h"

#define gather_states CK_NAME(ck_average_gather_states)
#define scatter_states CK_NAME(ck_average_scatter_states)
#define v_weight CK_NAME(ck_average_weight)

// Maxima and sums are a scalar chain, their exponentials are taken 64 tokens at a time.
CK_LOOP void CK_NAME(ck_running_softmax)(float *out, float *m, float *u, float *w, float *weights, float *shrinks, float *sums, const float *scores, size_t score_stride, const float *v, size_t stride, size_t time, size_t d) {
  float highest = *m, sum = *u;
  for (size_t t0 = 0; t0 < time; t0 += 64) {
    const size_t count = time - t0 < 64 ? time - t0 : 64;
    float above[64], below[64];
    for (size_t t = 0; t < count; t++) {
      const float score = scores[(t0 + t) * score_stride], before = highest;
      if (!(score <= highest)) highest = score; // a NaN stays
      above[t] = score - highest;
      below[t] = before - highest;
    }
    EACH(count, STORE(weights + t0, v_exp(LOAD(above))); STORE(shrinks + t0, v_exp(LOAD(below))););
    for (size_t t = t0; t < t0 + count; t++) {
      sum = sum * shrinks[t] + weights[t];
      sums[t] = sum;
      const float weight = weights[t], shrink = shrinks[t], inverse = 1.0f / sum;
      const float *value = v + t * stride;
      float *o = out + t * stride;
      EACH(d, {
        vf total = LOAD(w) * shrink + LOAD(value) * weight;
        STORE(w, total);
        STORE(o, total * inverse);
      });
    }
  }
  *m = highest;
  *u = sum;
}

// With R_t = dL/dw_t and r_t = −dL/du_t, both including all later tokens.
CK_LOOP void CK_NAME(ck_running_softmax_backward)(float *dscores, float *dv, float *du, float *dw, const float *dout, const float *out, const float *weights, const float *shrinks, const float *sums, size_t score_stride, const float *v, size_t stride, size_t time, size_t d) {
  float r = -*du;
  for (size_t t = time; t-- > 0;) {
    const float inverse = 1.0f / sums[t], weight = weights[t], shrink = shrinks[t];
    const float *g = dout + t * stride, *o = out + t * stride, *value = v + t * stride;
    float *d_value = dv + t * stride;
    vf of_output = v_all(0), of_value = v_all(0);
    EACH(d, {
      vf upstream = LOAD(g) * inverse, R = LOAD(dw) + upstream;
      of_output = upstream * LOAD(o) + of_output;
      of_value = R * LOAD(value) + of_value;
      STORE(d_value, R * weight);
      STORE(dw, R * shrink);
    });
    r += v_sum(of_output);
    dscores[t * score_stride] = weight * (v_sum(of_value) - r);
    r *= shrink;
  }
  *du = -r;
}

// states[n][0..<16] of channels first ..< first + count, from [D, N].
CK_INLINE void gather_states(vf h[CK_AVERAGE_STATES], const float *state, size_t first, size_t count, size_t states) {
  float lanes[CK_LANES];
  for (size_t n = 0; n < states; n++) {
    for (size_t c = 0; c < CK_LANES; c++) lanes[c] = state && c < count ? state[(first + c) * states + n] : 0.0f;
    h[n] = v_load(lanes);
  }
}
CK_INLINE void scatter_states(float *state, const vf h[CK_AVERAGE_STATES], size_t first, size_t count, size_t states) {
  float lanes[CK_LANES];
  for (size_t n = 0; n < states; n++) {
    v_store(lanes, h[n]);
    for (size_t c = 0; c < count; c++) state[(first + c) * states + n] = lanes[c];
  }
}

CK_LOOP void CK_NAME(ck_average)(float *y, float *state_out, float *kept, const float *x, const float *state_in, const ck_average_shape *s, size_t first) {
  const size_t D = s->channels, N = s->states, count = D - first < CK_LANES ? D - first : CK_LANES;
  vf h[CK_AVERAGE_STATES], decay[CK_AVERAGE_STATES], input[CK_AVERAGE_STATES], output[CK_AVERAGE_STATES];
  gather_states(h, state_in, first, count, N);
  for (size_t n = 0; n < N; n++) {
    decay[n] = v_load_part(s->decay + n * D + first, count);
    input[n] = v_load_part(s->input + n * D + first, count);
    output[n] = v_load_part(s->output + n * D + first, count);
  }
  const vf skip = v_load_part(s->skip + first, count);
  for (size_t t = 0; t < s->time; t++) {
    if (kept && t % CK_AVERAGE_BLOCK == 0)
      for (size_t n = 0; n < N; n++) v_store_part(kept + (t / CK_AVERAGE_BLOCK * N + n) * D + first, h[n], count);
    const vf value = v_load_part(x + t * D + first, count);
    vf even = skip * value, odd = v_all(0); // two chains: one would wait for itself
    for (size_t n = 0; n < N; n++) {
      h[n] = h[n] * decay[n] + value * input[n];
      if (n % 2) odd = output[n] * h[n] + odd;
      else even = output[n] * h[n] + even;
    }
    v_store_part(y + t * D + first, even + odd, count);
  }
  scatter_states(state_out, h, first, count, N);
}

CK_LOOP void CK_NAME(ck_average_backward)(float *dx, float *dstate_in, float *dcoefficients, const float *dy, const float *dstate_out, const float *x, const float *kept, const ck_average_shape *s, size_t first, float *scratch) {
  const size_t D = s->channels, N = s->states, count = D - first < CK_LANES ? D - first : CK_LANES;
  vf dh[CK_AVERAGE_STATES], decay[CK_AVERAGE_STATES], input[CK_AVERAGE_STATES], output[CK_AVERAGE_STATES];
  vf d_decay[CK_AVERAGE_STATES], d_input[CK_AVERAGE_STATES], d_output[CK_AVERAGE_STATES];
  vf d_skip = v_all(0);
  gather_states(dh, dstate_out, first, count, N);
  for (size_t n = 0; n < N; n++) {
    decay[n] = v_load_part(s->decay + n * D + first, count);
    input[n] = v_load_part(s->input + n * D + first, count);
    output[n] = v_load_part(s->output + n * D + first, count);
    d_decay[n] = d_input[n] = d_output[n] = v_all(0);
  }
  const vf skip = v_load_part(s->skip + first, count);
  for (size_t t1 = (s->time + CK_AVERAGE_BLOCK - 1) / CK_AVERAGE_BLOCK * CK_AVERAGE_BLOCK; t1 > 0; t1 -= CK_AVERAGE_BLOCK) {
    const size_t t0 = t1 - CK_AVERAGE_BLOCK, end = t1 < s->time ? t1 : s->time;
    // States before t0 and after each token of the block.
    for (size_t n = 0; n < N; n++) {
      vf h = v_load_part(kept + (t0 / CK_AVERAGE_BLOCK * N + n) * D + first, count);
      v_store(scratch + n * CK_LANES, h);
      for (size_t t = t0; t < end; t++) {
        h = h * decay[n] + v_load_part(x + t * D + first, count) * input[n];
        v_store(scratch + ((t - t0 + 1) * N + n) * CK_LANES, h);
      }
    }
    for (size_t t = end; t-- > t0;) {
      const vf g = v_load_part(dy + t * D + first, count), value = v_load_part(x + t * D + first, count);
      const float *after = scratch + (t - t0 + 1) * N * CK_LANES, *before = after - N * CK_LANES;
      vf even = skip * g, odd = v_all(0);
      d_skip = g * value + d_skip;
      for (size_t n = 0; n < N; n++) {
        vf slope = output[n] * g + dh[n];
        d_output[n] = g * v_load(after + n * CK_LANES) + d_output[n];
        d_input[n] = slope * value + d_input[n];
        d_decay[n] = slope * v_load(before + n * CK_LANES) + d_decay[n];
        if (n % 2) odd = slope * input[n] + odd;
        else even = slope * input[n] + even;
        dh[n] = slope * decay[n];
      }
      v_store_part(dx + t * D + first, even + odd, count);
    }
  }
  scatter_states(dstate_in, dh, first, count, N);
  for (size_t n = 0; n < N; n++) {
    v_store_part(dcoefficients + n * D + first, d_decay[n], count);
    v_store_part(dcoefficients + (N + n) * D + first, d_input[n], count);
    v_store_part(dcoefficients + (2 * N + n) * D + first, d_output[n], count);
  }
  v_store_part(dcoefficients + 3 * N * D + first, d_skip, count);
}

// f(x) of laplace or relu2, and f′ beside it.
CK_INLINE vf v_weight(vf x, int kind, vf *slope) {
  if (kind == CK_WEIGHTS_LAPLACE) {
    vf gaussian, p = v_normal_cdf((x - 0.707106781f) * 3.54490770f, &gaussian);
    *slope = gaussian * 1.41421356f;
    return p;
  }
  vf positive = v_select(x <= 0.0f, v_all(0), x);
  *slope = positive * 2.0f;
  return positive * positive;
}

CK_LOOP void CK_NAME(ck_biased_weights)(float *p, const float *s, const float *bias, float scale, int kind, size_t visible, size_t n) {
  if (kind == CK_WEIGHTS_SOFTMAX) {
    vf highest = v_all(-__builtin_inff());
    EACH(visible, {
      vf x = LOAD(s) * scale + LOAD(bias);
      STORE(p, x);
      highest = v_max(whole_ ? x : v_select(v_iota() < (int32_t)(count_ - i), x, v_all(-__builtin_inff())), highest);
    });
    const float top = v_maximum(highest);
    vf sum = v_all(0);
    EACH(visible, {
      vf e = v_exp(LOAD(p) - top);
      STORE(p, e);
      sum = sum + (whole_ ? e : v_select(v_iota() < (int32_t)(count_ - i), e, v_all(0)));
    });
    const float factor = 1.0f / v_sum(sum);
    EACH(visible, STORE(p, LOAD(p) * factor););
  } else {
    EACH(visible, {
      vf slope;
      STORE(p, v_weight(LOAD(s) * scale + LOAD(bias), kind, &slope));
    });
  }
  __builtin_memset(p + visible, 0, (n - visible) * sizeof(float));
}

CK_LOOP void CK_NAME(ck_biased_weights_backward)(float *p, float *dp, float *dbias, const float *s, const float *bias, float scale, int kind, size_t visible, size_t n) {
  if (kind == CK_WEIGHTS_SOFTMAX) {
    CK_NAME(ck_biased_weights)(p, s, bias, scale, kind, visible, n);
    vf along = v_all(0);
    EACH(visible, along = LOAD(p) * LOAD(dp) + along;);
    const float mean = v_sum(along);
    EACH(visible, {
      vf slope = LOAD(p) * (LOAD(dp) - mean);
      STORE(dbias, LOAD(dbias) + slope);
      STORE(dp, slope * scale);
    });
  } else {
    EACH(visible, {
      vf slope;
      STORE(p, v_weight(LOAD(s) * scale + LOAD(bias), kind, &slope));
      slope = slope * LOAD(dp);
      STORE(dbias, LOAD(dbias) + slope);
      STORE(dp, slope * scale);
    });
    __builtin_memset(p + visible, 0, (n - visible) * sizeof(float));
  }
  __builtin_memset(dp + visible, 0, (n - visible) * sizeof(float));
}

CK_LOOP void CK_NAME(ck_gated_residual)(float *y, const float *x, const float *a, const float *c, const float *e, size_t n) {
  EACH(n, {
    vf sum = LOAD(c) + LOAD(e), old = LOAD(x);
    STORE(y, old + v_sigmoid(LOAD(a)) * (sum * v_sigmoid(sum) - old));
  });
}
CK_LOOP void CK_NAME(ck_gated_residual_backward)(float *dx, float *da, float *dc, const float *dy, const float *x, const float *a, const float *c, const float *e, size_t n) {
  EACH(n, {
    vf sum = LOAD(c) + LOAD(e), old = LOAD(x), gate = v_sigmoid(LOAD(a)), g = LOAD(dy);
    vf s = v_sigmoid(sum), fresh = sum * s;
    STORE(dx, g * (1.0f - gate));
    STORE(da, g * (fresh - old) * (gate * (1.0f - gate)));
    STORE(dc, g * gate * (s + fresh * (1.0f - s)));
  });
}
CK_LOOP void CK_NAME(ck_gated_sum)(float *y, const float *a, const float *l, const float *b, const float *g, size_t n) {
  EACH(n, STORE(y, v_sigmoid(LOAD(a)) * LOAD(l) + v_sigmoid(LOAD(b)) * LOAD(g)););
}
CK_LOOP void CK_NAME(ck_gated_sum_backward)(float *da, float *dl, float *db, float *dg, const float *dy, const float *a, const float *l, const float *b, const float *g, size_t n) {
  EACH(n, {
    vf d = LOAD(dy), first = v_sigmoid(LOAD(a)), second = v_sigmoid(LOAD(b));
    STORE(da, d * LOAD(l) * (first * (1.0f - first)));
    STORE(dl, d * first);
    STORE(db, d * LOAD(g) * (second * (1.0f - second)));
    STORE(dg, d * second);
  });
}
