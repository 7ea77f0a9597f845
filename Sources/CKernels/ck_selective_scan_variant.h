// The loops of ck_selective_scan.h, for one variant; included by ck_selective_scan.c.
#include "ck_vector_variant.h"

#define decay_factor CK_NAME(ck_selective_scan_decay)
#define fetch CK_NAME(ck_selective_scan_fetch)
#define load_steps CK_NAME(ck_selective_scan_load_steps)

// 2^x for x ≤ 0, ≤ 2 ulp; what lies below 2^-126 becomes 2^-126, for the factor of a state as good as zero.
CK_INLINE vf decay_factor(vf x) {
  x = v_select(x < -126.0f, v_all(-126.0f), x);
  vf biased = x + 12582912.0f;
  vf n = biased - 12582912.0f, r = x - n;
  vf p = 0.0013264591f * r + 0.009671619f;
  p = p * r + 0.05550735f;
  p = p * r + 0.24022241f;
  p = p * r + 0.693147f;
  p = p * r + 1.0f;
  return v_scale2(p, n, (vi)biased);
}

// Rows lie far apart, where the hardware does not look ahead: fetch the same piece of the stretch that comes next. Without
// it both loops wait for memory most of the time.
CK_INLINE void fetch(const float *p, ptrdiff_t row, int direction) { __builtin_prefetch(p + direction * row * STEPS, 0, 2); }

// x and Δ of every step side by side; apart from the scan, so that the long chains of softplus overlap.
CK_INLINE void load_steps(const ck_selective_scan_stretch *in, size_t channel, size_t lanes, int direction, float *x, float *delta) {
  for (size_t t = 0; t < in->steps; t++) {
    const float *x_at = in->x + t * in->x_row + channel, *dt_at = in->dt + t * in->dt_row + channel;
    fetch(x_at, in->x_row, direction), fetch(dt_at, in->dt_row, direction);
    fetch(in->z + t * in->z_row + channel, in->z_row, direction);
    v_store(x + t * CK_LANES, v_load_lanes(x_at, lanes));
    v_store(delta + t * CK_LANES, v_softplus(v_load_lanes(dt_at, lanes)));
  }
}

CK_LOOP void CK_NAME(ck_selective_scan_forward)(const ck_selective_scan_stretch *in, float *h, float *y, ptrdiff_t y_row) {
  const size_t N = in->states;
  float xs[STEPS * CK_LANES], deltas[STEPS * CK_LANES], sums[STEPS * CK_LANES];
  for (size_t channel = 0; channel < in->channels; channel += CK_LANES) {
    const size_t lanes = in->channels - channel < CK_LANES ? in->channels - channel : CK_LANES;
    const float *decay = in->decay + channel * N;
    float *state = h + channel * N;
    load_steps(in, channel, lanes, 1, xs, deltas);
    for (size_t t = 0; t < in->steps; t++) {
      const float *b = in->b + t * in->bc_row, *c = in->c + t * in->bc_row;
      vf delta = v_load(deltas + t * CK_LANES), input = delta * v_load(xs + t * CK_LANES), sum = {0};
      for (size_t n = 0; n < N; n++) {
        vf a = decay_factor(delta * v_load(decay + n * CK_LANES));
        vf s = a * v_load(state + n * CK_LANES) + input * b[n];
        v_store(state + n * CK_LANES, s);
        sum = s * c[n] + sum;
      }
      v_store(sums + t * CK_LANES, sum);
    }
    const vf skip = v_load_lanes(in->skip + channel, lanes);
    for (size_t t = 0; t < in->steps; t++) {
      float *y_at = y + t * y_row + channel;
      fetch(y_at, y_row, 1);
      vf z = v_load_lanes(in->z + t * in->z_row + channel, lanes);
      vf sum = v_load(sums + t * CK_LANES) + skip * v_load(xs + t * CK_LANES);
      v_store_lanes(y_at, sum * (z * v_sigmoid(z)), lanes);
    }
  }
}

// Per block: upwards in time, states and decays again; then downwards, with g = dL/dh:
//   g += C dy;  dC += dy h;  k = g a h[t-1];  dΔ = x Σ g B + Σ k A;  dA += k Δ;  dB += g Δ x;  g ← g a.
CK_LOOP void CK_NAME(ck_selective_scan_backward)(
    const ck_selective_scan_stretch *in, const float *h, const float *dy, ptrdiff_t dy_row, float *g,
    const ck_selective_scan_gradients *out, float *scratch) {
  const size_t N = in->states, T = in->steps, row = N * CK_LANES;
  float *states = scratch, *decays = states + (STEPS + 1) * row;
  float *db = decays + STEPS * row, *dc = db + STEPS * row;
  float xs[STEPS * CK_LANES], deltas[STEPS * CK_LANES], sums[STEPS * CK_LANES], output_gradients[STEPS * CK_LANES];
  __builtin_memset(db, 0, 2 * STEPS * row * sizeof(float));

  for (size_t channel = 0; channel < in->channels; channel += CK_LANES) {
    const size_t lanes = in->channels - channel < CK_LANES ? in->channels - channel : CK_LANES;
    const float *decay = in->decay + channel * N;
    load_steps(in, channel, lanes, -1, xs, deltas);
    __builtin_memcpy(states, h + channel * N, row * sizeof(float));
    for (size_t t = 0; t < T; t++) {
      const float *b = in->b + t * in->bc_row, *c = in->c + t * in->bc_row;
      const float *before = states + t * row;
      float *after = states + (t + 1) * row, *a_row = decays + t * row;
      vf delta = v_load(deltas + t * CK_LANES), input = delta * v_load(xs + t * CK_LANES), sum = {0};
      for (size_t n = 0; n < N; n++) {
        vf a = decay_factor(delta * v_load(decay + n * CK_LANES));
        vf s = a * v_load(before + n * CK_LANES) + input * b[n];
        v_store(a_row + n * CK_LANES, a);
        v_store(after + n * CK_LANES, s);
        sum = s * c[n] + sum;
      }
      v_store(sums + t * CK_LANES, sum);
    }

    const vf skip = v_load_lanes(in->skip + channel, lanes);
    vf d_skip = v_load_lanes(out->d_skip + channel, lanes);
    for (size_t t = T; t-- > 0;) {
      const float *dy_at = dy + t * dy_row + channel;
      float *dz_at = out->dz + t * out->dz_row + channel;
      fetch(dy_at, dy_row, -1), fetch(dz_at, out->dz_row, -1);
      vf x = v_load(xs + t * CK_LANES), z = v_load_lanes(in->z + t * in->z_row + channel, lanes);
      vf d = v_load_lanes(dy_at, lanes), gate = v_sigmoid(z), ungated = d * (z * gate);
      vf sum = v_load(sums + t * CK_LANES) + skip * x;
      v_store_lanes(dz_at, d * sum * (gate * (1.0f + z * (1.0f - gate))), lanes);
      v_store(output_gradients + t * CK_LANES, ungated);
      d_skip = ungated * x + d_skip;
    }
    v_store_lanes(out->d_skip + channel, d_skip, lanes);

    float *g_block = g + channel * N, *d_decay = out->d_decay + channel * N;
    for (size_t t = T; t-- > 0;) {
      const float *b = in->b + t * in->bc_row, *c = in->c + t * in->bc_row;
      const float *before = states + t * row, *after = before + row, *a_row = decays + t * row;
      float *db_row = db + t * row, *dc_row = dc + t * row;
      vf x = v_load(xs + t * CK_LANES), delta = v_load(deltas + t * CK_LANES);
      vf d = v_load(output_gradients + t * CK_LANES), input = delta * x;
      vf through_input = {0}, through_decay = {0};
      for (size_t n = 0; n < N; n++) {
        const size_t i = n * CK_LANES;
        vf slope = d * c[n] + v_load(g_block + i);
        vf passed = slope * v_load(a_row + i);
        vf k = passed * v_load(before + i);
        v_store(g_block + i, passed);
        v_store(dc_row + i, d * v_load(after + i) + v_load(dc_row + i));
        v_store(db_row + i, slope * input + v_load(db_row + i));
        v_store(d_decay + i, k * delta + v_load(d_decay + i));
        through_input = slope * b[n] + through_input;
        through_decay = k * v_load(decay + i) + through_decay;
      }
      float *dx_at = out->dx + t * out->dx_row + channel, *ddt_at = out->ddt + t * out->ddt_row + channel;
      fetch(dx_at, out->dx_row, -1), fetch(ddt_at, out->ddt_row, -1);
      vf d_delta = x * through_input + through_decay * 0.693147181f; // `decay` is in octaves
      vf slope = v_sigmoid(v_load_lanes(in->dt + t * in->dt_row + channel, lanes));
      v_store_lanes(dx_at, delta * through_input + d * skip, lanes);
      v_store_lanes(ddt_at, d_delta * slope, lanes);
    }
  }
  for (size_t t = 0; t < T; t++)
    for (size_t n = 0; n < N; n++) {
      out->db[t * out->dbc_row + n] = v_sum(v_load(db + t * row + n * CK_LANES));
      out->dc[t * out->dbc_row + n] = v_sum(v_load(dc + t * row + n * CK_LANES));
    }
}

#undef decay_factor
#undef fetch
#undef load_steps
