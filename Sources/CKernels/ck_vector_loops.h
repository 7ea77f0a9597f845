// The loops of ck_vector.h, for one variant; included by ck_vector.c. Formulas and shapes are in ck_vector.h.
#include "ck_vector_variant.h"

// ---- elementwise
CK_LOOP void CK_NAME(ck_add)(float *y, const float *a, const float *b, size_t n) { EACH(n, STORE(y, LOAD(a) + LOAD(b));); }
CK_LOOP void CK_NAME(ck_subtract)(float *y, const float *a, const float *b, size_t n) { EACH(n, STORE(y, LOAD(a) - LOAD(b));); }
CK_LOOP void CK_NAME(ck_multiply)(float *y, const float *a, const float *b, size_t n) { EACH(n, STORE(y, LOAD(a) * LOAD(b));); }
CK_LOOP void CK_NAME(ck_multiply_add)(float *y, const float *a, const float *b, size_t n) { EACH(n, STORE(y, LOAD(a) * LOAD(b) + LOAD(y));); }
CK_LOOP void CK_NAME(ck_scale)(float *y, const float *x, float s, size_t n) { EACH(n, STORE(y, LOAD(x) * s);); }
CK_LOOP void CK_NAME(ck_axpy)(float *y, float s, const float *x, size_t n) { EACH(n, STORE(y, LOAD(x) * s + LOAD(y));); }

CK_LOOP int CK_NAME(ck_all_finite)(const float *x, size_t n) {
  vi bad = {0}; // an exponent of all ones marks infinity and NaN
  EACH(n, bad |= ((vi)LOAD(x) & 0x7f800000) == 0x7f800000;);
  int any = 0;
  for (int lane = 0; lane < CK_LANES; lane++) any |= bad[lane];
  return !any;
}

CK_LOOP void CK_NAME(ck_column_sums)(float *sums, const float *x, size_t ld, size_t rows, size_t columns, int accumulate) {
  if (!accumulate) __builtin_memset(sums, 0, columns * sizeof(float));
  size_t r = 0;
  for (; r + 8 <= rows; r += 8) { // eight rows a pass: fewer trips through `sums`, and shorter chains of rounding
    const float *p = x + r * ld;
    EACH(columns, {
      vf low = (LOAD(p) + LOAD(p + ld)) + (LOAD(p + 2 * ld) + LOAD(p + 3 * ld));
      vf high = (LOAD(p + 4 * ld) + LOAD(p + 5 * ld)) + (LOAD(p + 6 * ld) + LOAD(p + 7 * ld));
      STORE(sums, LOAD(sums) + (low + high));
    });
  }
  for (; r < rows; r++) EACH(columns, STORE(sums, LOAD(sums) + LOAD(x + r * ld)););
}

CK_LOOP double CK_NAME(ck_dot)(const float *a, const float *b, size_t n) {
  vd low = {0}, high = {0};
  EACH(n, {
    vf x = LOAD(a), y = LOAD(b);
    vd xl = __builtin_convertvector(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7), vd);
    vd xh = __builtin_convertvector(__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15), vd);
    vd yl = __builtin_convertvector(__builtin_shufflevector(y, y, 0, 1, 2, 3, 4, 5, 6, 7), vd);
    vd yh = __builtin_convertvector(__builtin_shufflevector(y, y, 8, 9, 10, 11, 12, 13, 14, 15), vd);
    low = xl * yl + low;
    high = xh * yh + high;
  });
  vd s = low + high;
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

// ---- activations
#define CK_FORWARD(name, ...) \
  CK_LOOP void CK_NAME(name)(float *y, const float *input, size_t n) { EACH(n, { vf x = LOAD(input); STORE(y, __VA_ARGS__); }); }
// dx = dy · (expression in x)
#define CK_BACKWARD(name, ...) \
  CK_LOOP void CK_NAME(name)(float *dx, const float *dy, const float *input, size_t n) { EACH(n, { vf x = LOAD(input); STORE(dx, LOAD(dy) * (__VA_ARGS__)); }); }

#define v_silu CK_NAME(ck_v_silu)
#define v_silu_slope CK_NAME(ck_v_silu_slope)
#define v_gelu_tanh CK_NAME(ck_v_gelu_tanh)
#define v_gelu_tanh_slope CK_NAME(ck_v_gelu_tanh_slope)
#define v_gelu_erf CK_NAME(ck_v_gelu_erf)
#define v_gelu_erf_slope CK_NAME(ck_v_gelu_erf_slope)
#define v_floor_at CK_NAME(ck_v_floor_at)
// −∞·0 would be NaN where the limit is 0, so factors are bounded where the other factor has vanished. NaN passes.
CK_INLINE vf v_floor_at(vf x, float low) { return v_select(x < low, v_all(low), x); }
CK_INLINE vf v_silu(vf x) { x = v_floor_at(x, -110.0f); return x * v_sigmoid(x); }
CK_INLINE vf v_silu_slope(vf x) {
  x = v_floor_at(x, -110.0f);
  x = v_select(x > 110.0f, v_all(110.0f), x);
  vf s = v_sigmoid(x), other = v_sigmoid(-x); // 1 − s without cancellation
  return s + s * (x * other);
}
// ½x(1 + tanh z) = x·σ(2z), z = √(2/π)(x + 0.044715 x³)
CK_INLINE vf v_gelu_tanh(vf x) {
  x = v_floor_at(x, -110.0f);
  return x * v_sigmoid(x * (1.595769122f + 0.0713548163f * (x * x)));
}
CK_INLINE vf v_gelu_tanh_slope(vf x) {
  x = v_floor_at(x, -110.0f);
  x = v_select(x > 110.0f, v_all(110.0f), x);
  vf square = x * x, twice = x * (1.595769122f + 0.0713548163f * square);
  vf s = v_sigmoid(twice), other = v_sigmoid(-twice);
  return s + s * (other * (x * (1.595769122f + 0.214064449f * square)));
}
CK_INLINE vf v_gelu_erf(vf x) { vf e; x = v_floor_at(x, -14.8f); return x * v_normal_cdf(x, &e); }
CK_INLINE vf v_gelu_erf_slope(vf x) {
  vf e;
  x = v_floor_at(x, -14.8f);
  x = v_select(x > 14.8f, v_all(14.8f), x);
  vf cdf = v_normal_cdf(x, &e);
  return cdf + x * (0.398942280f * e);
}

CK_FORWARD(ck_exp, v_exp(x))
CK_FORWARD(ck_tanh, v_tanh(x))
CK_FORWARD(ck_sigmoid, v_sigmoid(x))
CK_FORWARD(ck_relu, v_select(x < 0.0f, v_all(0.0f), x))
CK_FORWARD(ck_silu, v_silu(x))
CK_FORWARD(ck_gelu_tanh, v_gelu_tanh(x))
CK_FORWARD(ck_gelu_erf, v_gelu_erf(x))
CK_BACKWARD(ck_tanh_backward, 1.0f - x * x)
CK_BACKWARD(ck_sigmoid_backward, x * (1.0f - x))
CK_BACKWARD(ck_relu_backward, v_select(x <= 0.0f, v_all(0.0f), v_all(1.0f)))
CK_BACKWARD(ck_silu_backward, v_silu_slope(x))
CK_BACKWARD(ck_gelu_tanh_backward, v_gelu_tanh_slope(x))
CK_BACKWARD(ck_gelu_erf_backward, v_gelu_erf_slope(x))

CK_LOOP void CK_NAME(ck_swiglu)(float *y, const float *gate, const float *up, size_t n) { EACH(n, STORE(y, v_silu(LOAD(gate)) * LOAD(up));); }
CK_LOOP void CK_NAME(ck_swiglu_backward)(float *dgate, float *dup, const float *dy, const float *gate, const float *up, size_t n) {
  EACH(n, {
    vf g = v_floor_at(LOAD(gate), -110.0f), d = LOAD(dy), u = LOAD(up);
    vf s = v_sigmoid(g), y = g * s;
    STORE(dup, d * y);
    STORE(dgate, (d * u) * (s + y * (1.0f - s)));
  });
}
CK_LOOP void CK_NAME(ck_glu)(float *y, const float *gate, const float *up, size_t n) { EACH(n, STORE(y, v_sigmoid(LOAD(gate)) * LOAD(up));); }
CK_LOOP void CK_NAME(ck_glu_backward)(float *dgate, float *dup, const float *dy, const float *gate, const float *up, size_t n) {
  EACH(n, {
    vf s = v_sigmoid(LOAD(gate)), d = LOAD(dy) * s;
    STORE(dgate, (d * LOAD(up)) * (1.0f - s));
    STORE(dup, d);
  });
}

// ---- norms
CK_LOOP void CK_NAME(ck_rms_norm)(float *y, float *sum, const float *x, const float *residual, const float *w, float *rstd, size_t rows, size_t d, float eps) {
  for (size_t r = 0; r < rows; r++, y += d, x += d) {
    const float *in = x;
    vf a = {0};
    if (residual) {
      EACH(d, { vf s = LOAD(x) + LOAD(residual); STORE(sum, s); a = s * s + a; });
      in = sum;
      residual += d;
      sum += d;
    } else {
      vf b = {0};
      size_t i = 0;
      for (; i + 2 * CK_LANES <= d; i += 2 * CK_LANES) {
        vf p = v_load(x + i), q = v_load(x + i + CK_LANES);
        a = p * p + a;
        b = q * q + b;
      }
      size_t left = d - i;
      const float *tail = x + i;
      EACH(left, { vf p = LOAD(tail); a = p * p + a; });
      a = a + b;
    }
    float factor = 1.0f / __builtin_sqrtf(v_sum(a) / (float)d + eps);
    rstd[r] = factor;
    EACH(d, STORE(y, LOAD(w) * (LOAD(in) * factor)););
  }
}

CK_LOOP void CK_NAME(ck_rms_norm_input_gradient)(float *dx, const float *dy, const float *x, const float *w, const float *rstd, size_t rows, size_t d, int accumulate) {
  for (size_t r = 0; r < rows; r++, dx += d, dy += d, x += d) {
    vf a = {0};
    EACH(d, a = (LOAD(dy) * LOAD(w)) * LOAD(x) + a;);
    float factor = rstd[r], pull = v_sum(a) / (float)d * factor * factor * factor;
    if (accumulate)
      EACH(d, STORE(dx, LOAD(dx) + ((LOAD(dy) * LOAD(w)) * factor - LOAD(x) * pull)););
    else
      EACH(d, STORE(dx, (LOAD(dy) * LOAD(w)) * factor - LOAD(x) * pull););
  }
}

CK_LOOP void CK_NAME(ck_rms_norm_weight_gradient)(float *dw, const float *dy, const float *x, const float *rstd, size_t ld, size_t rows, size_t columns) {
  size_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    const float *g = dy + r * ld, *p = x + r * ld, *f = rstd + r;
    EACH(columns, {
      vf low = LOAD(g) * (LOAD(p) * f[0]);
      vf high = LOAD(g + 4 * ld) * (LOAD(p + 4 * ld) * f[4]);
      for (int k = 1; k < 4; k++) {
        low = LOAD(g + k * ld) * (LOAD(p + k * ld) * f[k]) + low;
        high = LOAD(g + (k + 4) * ld) * (LOAD(p + (k + 4) * ld) * f[k + 4]) + high;
      }
      STORE(dw, LOAD(dw) + (low + high));
    });
  }
  for (; r < rows; r++) EACH(columns, STORE(dw, LOAD(dy + r * ld) * (LOAD(x + r * ld) * rstd[r]) + LOAD(dw)););
}

CK_LOOP void CK_NAME(ck_layer_norm)(float *y, const float *x, const float *w, const float *bias, float *mean, float *rstd, size_t rows, size_t d, float eps) {
  for (size_t r = 0; r < rows; r++, y += d, x += d) {
    vf a = {0};
    EACH(d, a = a + LOAD(x););
    float m = v_sum(a) / (float)d;
    a = v_all(0);
    EACH(d, { vf c = LOAD_OR(x, m) - m; a = c * c + a; });
    float factor = 1.0f / __builtin_sqrtf(v_sum(a) / (float)d + eps);
    mean[r] = m;
    rstd[r] = factor;
    if (bias)
      EACH(d, STORE(y, LOAD(w) * ((LOAD(x) - m) * factor) + LOAD(bias)););
    else
      EACH(d, STORE(y, LOAD(w) * ((LOAD(x) - m) * factor)););
  }
}

CK_LOOP void CK_NAME(ck_layer_norm_input_gradient)(float *dx, const float *dy, const float *x, const float *w, const float *mean, const float *rstd, size_t rows, size_t d, int accumulate) {
  for (size_t r = 0; r < rows; r++, dx += d, dy += d, x += d) {
    vf a = {0}, b = {0};
    float m = mean[r], factor = rstd[r];
    EACH(d, { vf g = LOAD(dy) * LOAD(w); a = a + g; b = g * (LOAD(x) - m) + b; });
    float mean_gradient = v_sum(a) / (float)d, pull = v_sum(b) / (float)d * factor * factor;
    if (accumulate)
      EACH(d, STORE(dx, LOAD(dx) + ((LOAD(dy) * LOAD(w) - mean_gradient) - (LOAD(x) - m) * pull) * factor););
    else
      EACH(d, STORE(dx, ((LOAD(dy) * LOAD(w) - mean_gradient) - (LOAD(x) - m) * pull) * factor););
  }
}

CK_LOOP void CK_NAME(ck_layer_norm_weight_gradient)(float *dw, const float *dy, const float *x, const float *mean, const float *rstd, size_t ld, size_t rows, size_t columns) {
  for (size_t r = 0; r < rows; r += 8) { // groups of eight rows, as in ck_column_sums
    size_t group = rows - r < 8 ? rows - r : 8;
    EACH(columns, {
      vf sum = {0};
      for (size_t k = r; k < r + group; k++) sum = LOAD(dy + k * ld) * ((LOAD(x + k * ld) - mean[k]) * rstd[k]) + sum;
      STORE(dw, LOAD(dw) + sum);
    });
  }
}

// ---- softmax
#define row_maximum CK_NAME(ck_row_maximum)
#define row_exponentials CK_NAME(ck_row_exponentials)
CK_INLINE float row_maximum(const float *x, size_t n) {
  vf m = v_all(-__builtin_inff());
  EACH(n, m = v_max(LOAD_OR(x, -__builtin_inff()), m););
  return v_maximum(m);
}
// Σ e^{x − m}; stores the terms in y unless it is null.
CK_INLINE float row_exponentials(float *y, const float *x, float m, size_t n) {
  vf sum = {0};
  EACH(n, {
    vf e = v_exp(LOAD(x) - m);
    if (y) STORE(y, e);
    sum = sum + (whole_ ? e : v_select(v_iota() < (int32_t)(count_ - i), e, v_all(0)));
  });
  return v_sum(sum);
}
CK_LOOP void CK_NAME(ck_softmax)(float *y, const float *x, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, y += n, x += n) {
    float factor = 1.0f / row_exponentials(y, x, row_maximum(x, n), n);
    EACH(n, STORE(y, LOAD(y) * factor););
  }
}
CK_LOOP void CK_NAME(ck_softmax_backward)(float *dx, const float *dy, const float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, dx += n, dy += n, y += n) {
    vf a = {0};
    EACH(n, a = LOAD(dy) * LOAD(y) + a;);
    float dot = v_sum(a);
    EACH(n, STORE(dx, LOAD(y) * (LOAD(dy) - dot)););
  }
}
CK_LOOP void CK_NAME(ck_log_sum_exp)(float *out, const float *x, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, x += n) {
    float m = row_maximum(x, n);
    if (__builtin_isinf(m)) m = 0; // −∞ everywhere sums to nothing, +∞ is its own logarithm, and NaN shows in the sum
    out[r] = m + (float)__builtin_log(row_exponentials(0, x, m, n));
  }
}
CK_LOOP void CK_NAME(ck_cross_entropy)(float *loss, float *logits, size_t ld, const int32_t *targets, size_t rows, size_t n, const float *scales) {
  for (size_t r = 0; r < rows; r++, logits += ld) {
    int32_t target = targets[r];
    if (target < 0) {
      loss[r] = 0;
      if (scales) __builtin_memset(logits, 0, n * sizeof(float));
      continue;
    }
    float m = row_maximum(logits, n), chosen = logits[target];
    float sum = row_exponentials(scales ? logits : 0, logits, m, n);
    loss[r] = (float)(__builtin_log(sum) + ((double)m - (double)chosen));
    if (scales) {
      float factor = scales[r] / sum;
      EACH(n, STORE(logits, LOAD(logits) * factor););
      logits[target] -= scales[r];
    }
  }
}
CK_LOOP void CK_NAME(ck_distilled_cross_entropy)(float *loss, float *divergence, float *logits, const float *teacher, size_t ld, const int32_t *targets, size_t rows, size_t n, float share, const float *scales) {
  for (size_t r = 0; r < rows; r++, logits += ld, teacher += ld) {
    int32_t target = targets[r];
    if (target < 0) {
      loss[r] = divergence[r] = 0;
      __builtin_memset(logits, 0, n * sizeof(float));
      continue;
    }
    float m = row_maximum(logits, n), top = row_maximum(teacher, n), chosen = logits[target];
    float sum = row_exponentials(0, logits, m, n), total = row_exponentials(0, teacher, top, n);
    float own = scales[r] / sum, lent = scales[r] * share / total;
    float gap = (float)(__builtin_log(total) - __builtin_log(sum));
    vf a = {0};
    EACH(n, {
      vf x = LOAD(logits) - m, t = LOAD(teacher) - top, q = v_exp(t), term = q * (t - x - gap);
      STORE(logits, v_exp(x) * own - q * lent);
      a = a + (whole_ ? term : v_select(v_iota() < (int32_t)(count_ - i), term, v_all(0)));
    });
    loss[r] = (float)(__builtin_log(sum) + ((double)m - (double)chosen));
    divergence[r] = v_sum(a) / total;
    logits[target] -= scales[r] * (1.0f - share);
  }
}
CK_LOOP void CK_NAME(ck_top_one)(int32_t *hits, const float *logits, size_t ld, const int32_t *targets, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, logits += ld) {
    hits[r] = 0;
    if (targets[r] < 0) continue;
    size_t target = (size_t)targets[r];
    float chosen = logits[target];
    // Negated comparisons: a NaN anywhere is no hit.
    uint32_t better = !(chosen <= chosen);
    for (size_t i = 0; i < target; i++) better += !(logits[i] < chosen);
    for (size_t i = target + 1; i < n; i++) better += !(logits[i] <= chosen);
    hits[r] = better == 0;
  }
}

// ---- rotary position embedding
CK_LOOP void CK_NAME(ck_rotate_half)(float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t half, float direction) {
  for (size_t h = 0; h < heads; h++, y += 2 * half, x += 2 * half) {
    float *upper = y + half;
    const float *in = x + half;
    EACH(half, {
      vf a = LOAD(x), b = LOAD(in), c = LOAD(cosine), s = LOAD(sine) * direction;
      STORE(y, a * c - b * s);
      STORE(upper, b * c + a * s);
    });
  }
}
CK_LOOP void CK_NAME(ck_rotate_interleaved)(float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t half, float direction) {
  for (size_t h = 0; h < heads; h++, y += 2 * half, x += 2 * half) {
    size_t i = 0;
    for (; i + CK_LANES <= half; i += CK_LANES) {
      vf low = v_load(x + 2 * i), high = v_load(x + 2 * i + CK_LANES);
      vf a = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      vf b = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
      vf c = v_load(cosine + i), s = v_load(sine + i) * direction, p = a * c - b * s, q = b * c + a * s;
      v_store(y + 2 * i, __builtin_shufflevector(p, q, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
      v_store(y + 2 * i + CK_LANES, __builtin_shufflevector(p, q, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
    }
    for (; i < half; i++) {
      float a = x[2 * i], b = x[2 * i + 1], c = cosine[i], s = sine[i] * direction;
      y[2 * i] = a * c - b * s;
      y[2 * i + 1] = b * c + a * s;
    }
  }
}

// ---- counter-based random numbers
#define philox_block CK_NAME(ck_philox_block)
#define philox_round CK_NAME(ck_philox_round)
typedef uint64_t CK_NAME(ck_vu64) __attribute__((ext_vector_type(8)));
#define vu64 CK_NAME(ck_vu64)
// High and low halves of the products of 32-bit lanes; even and odd lanes go through 64-bit multiplications.
CK_INLINE void philox_round(vu x, uint32_t factor, vu *high, vu *low) {
  vu64 even = ((vu64)x & 0xffffffffu) * (uint64_t)factor, odd = ((vu64)x >> 32) * (uint64_t)factor;
  *high = (vu)((even >> 32) | (odd & 0xffffffff00000000u));
  *low = (vu)((even & 0xffffffffu) | (odd << 32));
}
// Words of 16 successive counters from `first`; word[4·c + j] is word j of counter first + c.
CK_INLINE void philox_block(uint32_t *words, uint32_t first, const ck_philox_key *key) {
  vu c0 = (vu)v_iota() + first, c1 = (vu){0} + key->counter[0], c2 = (vu){0} + key->counter[1], c3 = (vu){0} + key->counter[2];
  uint32_t k0 = key->key[0], k1 = key->key[1];
  for (int round = 0; round < 10; round++) {
    vu high0, low0, high2, low2;
    philox_round(c0, 0xD2511F53u, &high0, &low0);
    philox_round(c2, 0xCD9E8D57u, &high2, &low2);
    c0 = high2 ^ c1 ^ k0;
    c1 = low2;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  vu64 a = (vu64)__builtin_shufflevector(c0, c1, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  vu64 b = (vu64)__builtin_shufflevector(c2, c3, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  vu64 c = (vu64)__builtin_shufflevector(c0, c1, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  vu64 d = (vu64)__builtin_shufflevector(c2, c3, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  vu64 out[4] = {
    __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11), __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15),
    __builtin_shufflevector(c, d, 0, 8, 1, 9, 2, 10, 3, 11), __builtin_shufflevector(c, d, 4, 12, 5, 13, 6, 14, 7, 15)};
  __builtin_memcpy(words, out, sizeof out);
}

// Visits elements first ..< first + n in aligned blocks of 64, whose words are in `words`; `from` is the block's offset
// of the first element wanted, `take` how many, and `done` their place in the caller's array.
#define PHILOX_BLOCKS(first, n, key, ...)                                                                    \
  do {                                                                                                       \
    uint64_t element_ = (first);                                                                             \
    for (size_t done = 0; done < (n);) {                                                                     \
      uint32_t words[64];                                                                                    \
      size_t from = element_ % 64, take = 64 - from < (n) - done ? 64 - from : (n) - done;                   \
      philox_block(words, (uint32_t)((element_ - from) / 4), key);                                           \
      __VA_ARGS__                                                                                            \
      element_ += take;                                                                                      \
      done += take;                                                                                          \
    }                                                                                                        \
  } while (0)

CK_LOOP void CK_NAME(ck_philox_words)(uint32_t *out, uint64_t first, size_t n, const ck_philox_key *key) {
  PHILOX_BLOCKS(first, n, key, __builtin_memcpy(out + done, words + from, take * sizeof(uint32_t)););
}
CK_LOOP void CK_NAME(ck_philox_uniform)(float *out, uint64_t first, size_t n, const ck_philox_key *key) {
  PHILOX_BLOCKS(first, n, key, {
    float value[64];
    for (int b = 0; b < 64; b += CK_LANES) {
      vi bits = (vi)v_load((const float *)(const void *)(words + b));
      v_store(value + b, __builtin_convertvector((vi)((vu)bits >> 8), vf) * 5.9604644775390625e-8f);
    }
    __builtin_memcpy(out + done, value + from, take * sizeof(float));
  });
}
CK_LOOP void CK_NAME(ck_philox_normal)(float *out, uint64_t first, size_t n, const ck_philox_key *key) {
  PHILOX_BLOCKS(first, n, key, {
    float value[64];
    for (int b = 0; b < 64; b += 2 * CK_LANES) { // elements 2i and 2i + 1 share two words: radius and angle
      vu w0 = (vu)v_load((const float *)(const void *)(words + b)), w1 = (vu)v_load((const float *)(const void *)(words + b + CK_LANES));
      vi radius_bits = (vi)__builtin_shufflevector(w0, w1, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      vi angle_bits = (vi)__builtin_shufflevector(w0, w1, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
      // (word/2^8 + ½)/2^24 lies in (0, 1); the half keeps the logarithm finite.
      vf u = (__builtin_convertvector((vi)((vu)radius_bits >> 9), vf) + 0.5f) * 1.1920928955078125e-7f;
      vf radius = __builtin_elementwise_sqrt(v_log(u) * -2.0f);
      vi quadrant = (vi)((vu)angle_bits >> 30);
      vf f = __builtin_convertvector((angle_bits >> 6) & 0xffffff, vf) * 5.9604644775390625e-8f - 0.5f; // quarter turns, [-½, ½)
      vf square = f * f;
      vf sine = f * (1.57079633f + square * (-0.645964098f + square * (0.0796926262f + square * (-0.00468175414f + square * 0.000160441184f))));
      vf cosine = 1.0f + square * (-1.23370055f + square * (0.253669508f + square * (-0.0208634807f + square * (0.000919260274f - square * 0.0000252020424f))));
      vi swap = (quadrant & 1) != 0;
      vf first_value = v_select(swap, sine, cosine), second = v_select(swap, cosine, sine);
      first_value = (vf)((vi)first_value ^ (((quadrant + 1) & 2) << 30));
      second = (vf)((vi)second ^ ((quadrant & 2) << 30));
      first_value = first_value * radius;
      second = second * radius;
      v_store(value + b, __builtin_shufflevector(first_value, second, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
      v_store(value + b + CK_LANES, __builtin_shufflevector(first_value, second, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
    }
    __builtin_memcpy(out + done, value + from, take * sizeof(float));
  });
}
CK_LOOP void CK_NAME(ck_dropout)(float *y, const float *x, uint64_t first, size_t n, const ck_philox_key *key, uint32_t threshold, float factor) {
  PHILOX_BLOCKS(first, n, key, {
    const float *in = x + done;
    float *out = y + done;
    const float *word = (const float *)(const void *)(words + from);
    EACH(take, {
      vu w = (vu)LOAD(word);
      STORE(out, LOAD(in) * v_select((vi)(w >= threshold), v_all(factor), v_all(0)));
    });
  });
}

// ---- optimisers
CK_LOOP void CK_NAME(ck_adam)(float *p, float *m, float *v, const float *g, size_t n, const ck_adam_step *s) {
  const float b1 = s->beta1, c1 = 1.0f - s->beta1, b2 = s->beta2, c2 = 1.0f - s->beta2;
  EACH(n, {
    vf parameter = LOAD(p);
    vf gradient = LOAD(g) * s->gradient_scale + parameter * s->l2_penalty;
    vf first = LOAD(m) * b1 + gradient * c1;
    vf second = LOAD(v) * b2 + (gradient * gradient) * c2;
    STORE(m, first);
    STORE(v, second);
    vf denominator = __builtin_elementwise_sqrt(second) * s->second_correction + s->epsilon;
    STORE(p, parameter * s->decay - (first * s->step_size) / denominator);
  });
}
CK_LOOP void CK_NAME(ck_sgd)(float *p, float *velocity, const float *g, size_t n, const ck_sgd_step *s) {
  if (!velocity) {
    EACH(n, { vf w = LOAD(p); STORE(p, w - (LOAD(g) * s->gradient_scale + w * s->l2_penalty) * s->learning_rate); });
    return;
  }
  EACH(n, {
    vf w = LOAD(p), gradient = LOAD(g) * s->gradient_scale + w * s->l2_penalty;
    vf speed = LOAD(velocity) * s->momentum + gradient;
    STORE(velocity, speed);
    vf direction = s->nesterov ? gradient + speed * s->momentum : speed;
    STORE(p, w - direction * s->learning_rate);
  });
}
