// The loops of ck_mixer.h, for one variant; included by ck_mixer.c. Formulas and shapes are in ck_mixer.h.
#include "ck_vector_variant.h"

#define v_gate CK_NAME(ck_mixer_gate)
#define convolved CK_NAME(ck_mixer_convolved)
#define row_at CK_NAME(ck_mixer_row_at)

// silu (kind 1) or σ (kind 2), and the derivative beside it. −∞·0 would be NaN where the limit is 0, so silu's factor is
// bounded where σ has vanished.
CK_INLINE vf v_gate(vf z, const int kind, vf *slope) {
  z = v_select(z < -110.0f, v_all(-110.0f), z);
  z = v_select(z > 110.0f, v_all(110.0f), z);
  vf s = v_sigmoid(z), rest = v_sigmoid(-z);
  if (slope) *slope = kind == 1 ? s + s * (z * rest) : s * rest;
  return kind == 1 ? z * s : s;
}

// The row of a sequence, preceded by its past, that tap k meets at token t; null where there is none.
CK_INLINE const float *row_at(const float *x, const float *past, const ck_short_convolution_shape *s, size_t t, size_t k) {
  ptrdiff_t row = (ptrdiff_t)(t + s->ahead + k) - (ptrdiff_t)(s->taps - 1);
  if (row >= (ptrdiff_t)s->time) return 0;
  if (row >= 0) return x + (size_t)row * s->channels;
  return past ? past + (size_t)(row + (ptrdiff_t)s->taps - 1) * s->channels : 0;
}

CK_INLINE vf convolved(const float *x, const float *past, const float *w, const float *bias, const ck_short_convolution_shape *s, size_t t, size_t i, const int whole_, size_t count_) {
  vf sum = bias ? LOAD(bias) : v_all(0);
  for (size_t k = 0; k < s->taps; k++) {
    const float *row = row_at(x, past, s, t, k);
    if (row) sum = LOAD(row) * LOAD(w + k * s->channels) + sum;
  }
  return sum;
}

CK_LOOP void CK_NAME(ck_short_convolution)(float *y, const float *x, const float *past, const float *w, const float *bias, const ck_short_convolution_shape *shape, size_t first, size_t count, int silu) {
  const ck_short_convolution_shape own = *shape, *s = &own; // its fields stay in registers
  for (size_t t = first; t < first + count; t++) {
    float *out = y + t * s->channels;
    if (silu)
      EACH(s->channels, STORE(out, v_gate(convolved(x, past, w, bias, s, t, i, whole_, count_), 1, 0)););
    else
      EACH(s->channels, STORE(out, convolved(x, past, w, bias, s, t, i, whole_, count_)););
  }
}

CK_LOOP void CK_NAME(ck_short_convolution_slope)(float *dpre, const float *dy, const float *x, const float *past, const float *w, const float *bias, const ck_short_convolution_shape *shape, size_t first, size_t count) {
  const ck_short_convolution_shape own = *shape, *s = &own; // its fields stay in registers
  for (size_t t = first; t < first + count; t++) {
    float *out = dpre + t * s->channels;
    const float *in = dy + t * s->channels;
    EACH(s->channels, {
      vf slope;
      v_gate(convolved(x, past, w, bias, s, t, i, whole_, count_), 1, &slope);
      STORE(out, LOAD(in) * slope);
    });
  }
}

CK_LOOP void CK_NAME(ck_short_convolution_input_gradient)(float *dx, const float *dpre, const float *w, const ck_short_convolution_shape *shape, ptrdiff_t first, size_t count) {
  const ck_short_convolution_shape own = *shape, *s = &own; // its fields stay in registers
  for (size_t r = 0; r < count; r++, dx += s->channels) {
    ptrdiff_t last = first + (ptrdiff_t)(r + s->taps - 1) - (ptrdiff_t)s->ahead; // tap k meets dpre row `last − k`
    EACH(s->channels, {
      vf sum = {0};
      for (size_t k = 0; k < s->taps; k++) {
        ptrdiff_t t = last - (ptrdiff_t)k;
        if (t >= 0 && t < (ptrdiff_t)s->time) sum = LOAD(dpre + (size_t)t * s->channels) * LOAD(w + k * s->channels) + sum;
      }
      STORE(dx, sum);
    });
  }
}

CK_LOOP void CK_NAME(ck_short_convolution_weight_gradient)(float *dw, const float *dpre, const float *x, const float *past, const ck_short_convolution_shape *shape, size_t columns) {
  const ck_short_convolution_shape own = *shape, *s = &own; // its fields stay in registers
  for (size_t t0 = 0; t0 < s->time; t0 += 32) { // short chains of rounding, and rows that stay in cache for all taps
    size_t t1 = t0 + 32 < s->time ? t0 + 32 : s->time;
    for (size_t k = 0; k < s->taps; k++) {
      float *out = dw + k * s->channels;
      EACH(columns, {
        vf sum = {0};
        for (size_t t = t0; t < t1; t++) {
          const float *row = row_at(x, past, s, t, k);
          if (row) sum = LOAD(dpre + t * s->channels) * LOAD(row) + sum;
        }
        STORE(out, LOAD(out) + sum);
      });
    }
  }
}

CK_LOOP void CK_NAME(ck_gated_norm)(float *y, float *mean, float *rstd, const float *x, const float *z, const float *w, size_t rows, const ck_gated_norm_shape *shape) {
  const size_t d = shape->width;
  const int kind = shape->gate, first = shape->gate && shape->gate_first;
  for (size_t r = 0; r < rows * shape->groups; r++, x += d, y += d) {
    const float *scale = shape->shared ? w : w + r % shape->groups * d, *gate = z ? z + r * d : 0;
    float m = 0;
    vf a = {0};
    if (shape->centred) {
      EACH(d, a = a + LOAD(x););
      m = v_sum(a) / (float)d;
      mean[r] = m;
      a = v_all(0);
    }
    if (first) // the gated values wait in y
      EACH(d, { vf u = LOAD(x) * v_gate(LOAD(gate), kind, 0); STORE(y, u); a = u * u + a; });
    else
      EACH(d, { vf c = LOAD_OR(x, m) - m; a = c * c + a; });
    float factor = 1.0f / __builtin_sqrtf(v_sum(a) / (float)d + shape->epsilon);
    rstd[r] = factor;
    if (first)
      EACH(d, STORE(y, LOAD(scale) * (LOAD(y) * factor)););
    else if (kind)
      EACH(d, STORE(y, (LOAD(scale) * ((LOAD(x) - m) * factor)) * v_gate(LOAD(gate), kind, 0)););
    else
      EACH(d, STORE(y, LOAD(scale) * ((LOAD(x) - m) * factor)););
  }
}

CK_LOOP void CK_NAME(ck_gated_norm_backward)(float *dx, float *dz, float *dw, const float *dy, const float *x, const float *z, const float *w, const float *mean, const float *rstd, size_t rows, const ck_gated_norm_shape *shape) {
  const size_t d = shape->width;
  const int kind = shape->gate, first = shape->gate && shape->gate_first;
  for (size_t r = 0; r < rows * shape->groups; r++, dx += d, dy += d, x += d) {
    const size_t own = shape->shared ? 0 : r % shape->groups * d;
    const float *scale = w + own, *gate = z ? z + r * d : 0;
    float *dscale = dw + own, *dgate = dz ? dz + r * d : 0;
    const float m = shape->centred ? mean[r] : 0, factor = rstd[r];
    // n: the normalised values, g: the gradient that reaches them. dx waits for the two means over the group.
    vf a = {0}, b = {0};
    EACH(d, {
      vf value = LOAD(x) - m, upstream = LOAD(dy), weight = LOAD(scale), n, g, slope = v_all(0), open = v_all(1);
      if (kind) open = v_gate(LOAD(gate), kind, &slope);
      if (first) {
        n = (value * open) * factor;
        g = upstream * weight;
      } else {
        n = LOAD_OR(x, m) - m;
        n = n * factor;
        g = (upstream * open) * weight;
        if (kind) {
          STORE(dgate, (upstream * weight) * (n * slope));
          upstream = upstream * open;
        }
      }
      STORE(dscale, upstream * n + LOAD(dscale));
      STORE(dx, g);
      a = a + g;
      b = g * n + b;
    });
    const float shift = shape->centred ? v_sum(a) / (float)d : 0, pull = v_sum(b) / (float)d;
    EACH(d, {
      vf value = LOAD(x) - m;
      if (first) {
        vf slope, open = v_gate(LOAD(gate), kind, &slope);
        vf du = (LOAD(dx) - ((value * open) * factor) * pull) * factor;
        STORE(dgate, (du * value) * slope);
        STORE(dx, du * open);
      } else {
        STORE(dx, ((LOAD(dx) - shift) - (value * factor) * pull) * factor);
      }
    });
  }
}

CK_LOOP void CK_NAME(ck_softplus)(float *y, const float *x, size_t n) { EACH(n, STORE(y, v_softplus(LOAD(x)));); }
CK_LOOP void CK_NAME(ck_log_sigmoid)(float *y, const float *x, float factor, size_t n) { EACH(n, STORE(y, v_softplus(-LOAD(x)) * -factor);); }
CK_LOOP void CK_NAME(ck_log_sigmoid_backward)(float *dx, const float *dy, const float *x, float factor, size_t n) {
  EACH(n, STORE(dx, (LOAD(dy) * factor) * v_sigmoid(-LOAD(x))););
}

CK_LOOP void CK_NAME(ck_l2_norm)(float *y, float *rstd, const float *x, size_t rows, size_t width, float epsilon) {
  for (size_t r = 0; r < rows; r++, y += width, x += width) {
    vf a = {0};
    EACH(width, { vf p = LOAD(x); a = p * p + a; });
    float factor = rstd[r] = 1.0f / __builtin_sqrtf(v_sum(a) + epsilon);
    EACH(width, STORE(y, LOAD(x) * factor););
  }
}
CK_LOOP void CK_NAME(ck_l2_norm_backward)(float *dx, const float *dy, const float *y, const float *rstd, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; r++, dx += width, dy += width, y += width) {
    vf a = {0};
    EACH(width, a = LOAD(dy) * LOAD(y) + a;);
    float dot = v_sum(a), factor = rstd[r];
    EACH(width, STORE(dx, (LOAD(dy) - LOAD(y) * dot) * factor););
  }
}

// ---- a factor for every head
CK_LOOP void CK_NAME(ck_scaled_heads)(float *y, const float *x, size_t x_row, const float *factors, size_t rows, size_t heads, size_t width) {
  for (size_t r = 0; r < rows; r++, x += x_row)
    for (size_t h = 0; h < heads; h++, y += width) {
      const float *from = x + h * width, factor = *factors++;
      EACH(width, STORE(y, LOAD(from) * factor););
    }
}
CK_LOOP void CK_NAME(ck_scaled_heads_backward)(float *dx, float *dfactors, const float *dy, const float *x, size_t x_row, const float *factors, size_t rows, size_t heads, size_t width) {
  for (size_t r = 0; r < rows; r++, x += x_row, dx += x_row)
    for (size_t h = 0; h < heads; h++, dy += width) {
      const float *from = x + h * width, factor = *factors++;
      float *to = dx + h * width;
      vf sum = {0};
      EACH(width, {
        vf slope = LOAD(dy);
        sum = slope * LOAD(from) + sum;
        STORE(to, slope * factor + LOAD(to));
      });
      *dfactors++ = v_sum(sum);
    }
}

// ---- products of pairs
CK_LOOP void CK_NAME(ck_paired_product)(float *y, const float *pairs, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; r++, y += width, pairs += 2 * width) {
    const float *other = pairs + width;
    EACH(width, STORE(y, LOAD(pairs) * LOAD(other)););
  }
}
CK_LOOP void CK_NAME(ck_paired_product_backward)(float *pairs, const float *dy, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; r++, dy += width, pairs += 2 * width) {
    float *other = pairs + width;
    EACH(width, { vf a = LOAD(pairs); STORE(pairs, LOAD(dy) * LOAD(other)); STORE(other, LOAD(dy) * a); });
  }
}

// ---- feature maps
CK_LOOP void CK_NAME(ck_elu_plus_one)(float *y, const float *x, size_t n) {
  EACH(n, { vf v = LOAD(x); STORE(y, v_select(v > 0.0f, v + 1.0f, v_exp(v))); });
}
CK_LOOP void CK_NAME(ck_elu_plus_one_backward)(float *dx, const float *dy, const float *y, size_t n) {
  EACH(n, { vf v = LOAD(y); STORE(dx, LOAD(dy) * v_select(v > 1.0f, v_all(1), v)); });
}

CK_LOOP void CK_NAME(ck_signed_softmax)(float *y, const float *x, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; r++, y += 2 * width, x += width) {
    float *minus = y + width;
    vf top = {0}, sum = {0};
    EACH(width, { vf size = v_absolute(LOAD(x)); top = v_select(size > top, size, v_select(size == size, top, size)); });
    const float m = 2.0f * v_maximum(top);
    EACH(width, {
      vf v = LOAD(x) * 2.0f, a = v_exp(v - m), b = v_exp(-v - m);
      STORE(y, a);
      STORE(minus, b);
      sum = sum + (whole_ ? a + b : v_select(v_iota() < (int32_t)(count_ - i), a + b, v_all(0)));
    });
    const float factor = 1.0f / v_sum(sum);
    EACH(2 * width, STORE(y, LOAD(y) * factor););
  }
}
CK_LOOP void CK_NAME(ck_signed_softmax_backward)(float *dx, const float *dy, const float *y, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; r++, dx += width, dy += 2 * width, y += 2 * width) {
    const float *minus = y + width, *dminus = dy + width;
    vf a = {0};
    EACH(2 * width, a = LOAD(dy) * LOAD(y) + a;);
    const float dot = v_sum(a);
    EACH(width, STORE(dx, (LOAD(y) * (LOAD(dy) - dot) - LOAD(minus) * (LOAD(dminus) - dot)) * 2.0f););
  }
}

// ---- running softmax
CK_LOOP void CK_NAME(ck_softmax_gate)(float *weight, float *log_decay, float *z, const float *x, const float *past, size_t time, size_t width) {
  for (size_t t = 0; t < time; t++, weight += width, log_decay += width, x += width) {
    const float *before = t ? z : past;
    if (!before) {
      EACH(width, { STORE(weight, v_all(1)); STORE(log_decay, v_all(0)); STORE(z, LOAD(x)); });
      continue;
    }
    EACH(width, {
      vf old = LOAD(before), score = LOAD(x), high = v_select(score > old, score, old), low = v_select(score > old, old, score);
      vf e = v_exp(low - high), u = e + 1.0f;
      vf more = v_log(u) + v_divide(e - (u - 1.0f), u); // log(1 + e), with what rounding lost put back
      STORE(z, high + more);
      STORE(weight, v_exp((score - high) - more));
      STORE(log_decay, (old - high) - more);
    });
  }
}
// c_t = dz_t + e^{log_decay_{t+1}} c_{t+1}, dz_t = −weight·dweight − dlog_decay_t + dlog_decay_{t+1}; dx = weight (dweight + c).
CK_LOOP void CK_NAME(ck_softmax_gate_backward)(float *dx, float *dpast, const float *dweight, const float *dlog_decay, const float *dlast, const float *weight, const float *log_decay, size_t has_past, size_t time, size_t width) {
  EACH(width, {
    vf c = dlast ? LOAD(dlast) : v_all(0);
    for (size_t t = time; t-- > 0;) {
      const size_t row = t * width;
      vf w = LOAD(weight + row), dw = LOAD(dweight + row), dg = LOAD(dlog_decay + row);
      const int starts = t == 0 && !has_past;
      c = c - w * dw;
      if (!starts) c = c - dg;
      STORE(dx + row, w * (dw + c));
      // What goes on to z_{t−1}: through z_t, and as the minuend of the decay.
      if (!starts) c = v_exp(LOAD(log_decay + row)) * c + dg;
    }
    if (dpast) STORE(dpast, c);
  });
}
