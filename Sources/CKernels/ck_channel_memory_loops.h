// Matrix memories with vector decays for one instruction-set variant; included by ck_channel_memory.c. See
// include/ck_channel_memory.h for the mathematics.
//
// e^{b_i − b_j} of two tokens does not factor into parts that both stay in range, so a chunk is cut in bands of 16 rows:
//   opening_i = decay from the start of i's band to i,   closing_j = decay from j to the end of j's band,   whole = of a band.
// Between bands, A_ij = scale · (q_i ⊙ opening_i) · (k_j ⊙ closing_j ⊙ the whole bands between): the keys of earlier bands
// are multiplied by one more band as the query band moves on. Within a band the decay is carried along from j to j − 1. All
// factors are products of a_t = e^{log_decay_t} ≤ 1: one exponential per token and channel, no difference of sums.
//
// Ladder: exponentials of differences inside the band (8 per token and channel) cost as much as all products of the chunk.
#include "ck_small_matrix.h"

#define decays_of_chunk CK_NAME(ck_channel_decays)
#define scores_of_chunk CK_NAME(ck_channel_scores)
#define sums16 CK_NAME(ck_channel_sums16)
#define scale_rows CK_NAME(ck_channel_scale_rows)
#define flushed CK_NAME(ck_channel_flushed)
#define band_gradient CK_NAME(ck_channel_band_gradient)

// No subnormal number shall slow what follows.
CK_INLINE vf flushed(vf x) { return v_select(x < 1e-30f, v_all(0), x); }

CK_PIECE void decays_of_chunk(const channel_decays *d, const float *log_decay, size_t stride, size_t rows, size_t width) {
  const size_t kp = lanes_up(width), bands = (rows + BAND - 1) / BAND;
  for (size_t t = 0; t < rows; t++) {
    const float *g = log_decay + t * stride;
    float *a = d->step + t * kp;
    EACH(width, v_store(a + i, v_exp(LOAD(g))););
  }
  for (size_t c = 0; c < kp; c += CK_LANES) {
    vf all = v_all(1), after = v_all(1);
    for (size_t band = 0; band < bands; band++) {
      vf own = v_all(1);
      for (size_t t = band * BAND; t < band * BAND + BAND && t < rows; t++) {
        vf a = v_load(d->step + t * kp + c);
        own = flushed(own * a);
        all = flushed(all * a);
        v_store(d->opening + t * kp + c, own);
        v_store(d->reach + t * kp + c, all);
      }
      v_store(d->whole + band * kp + c, own);
    }
    v_store(d->whole + CHUNK / BAND * kp + c, all);
    vf own = v_all(1);
    for (size_t t = rows; t-- > 0;) {
      if (t % BAND == BAND - 1) own = v_all(1);
      v_store(d->closing + t * kp + c, own);
      v_store(d->write + t * kp + c, after);
      vf a = v_load(d->step + t * kp + c);
      own = flushed(own * a);
      after = flushed(after * a);
    }
  }
}

// Lane sums of 16 vectors, one a lane.
CK_INLINE vf sums16(const vf x[16]) {
  vf a[8];
  for (int i = 0; i < 8; i++)
    a[i] = __builtin_shufflevector(x[i], x[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
         + __builtin_shufflevector(x[i], x[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  vf b[4];
  for (int i = 0; i < 4; i++)
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
         + __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  vf c[2];
  for (int i = 0; i < 2; i++)
    c[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
         + __builtin_shufflevector(b[i], b[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  return __builtin_shufflevector(c[0], c[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
       + __builtin_shufflevector(c[0], c[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}

// out = x ⊙ factors, rows of kp; zeros in padding rows.
CK_PIECE void scale_rows(float *out, const float *x, const float *factors, size_t rows, size_t kp) {
  for (size_t i = 0; i < rows * kp; i += CK_LANES) v_store(out + i, v_load(x + i) * v_load(factors + i));
  __builtin_memset(out + rows * kp, 0, (rows_up(rows) - rows) * kp * sizeof(float));
}

// A: scale · decayed scores, 0 above the diagonal. q, k: packed rows; q_open, k_t: scratch [CHUNK][kp], [kp][CHUNK].
CK_PIECE void scores_of_chunk(float *a, float *q_open, float *k_close, float *k_t, const float *q, const float *k, const channel_decays *d, size_t rows, size_t width, float scale) {
  const size_t kp = lanes_up(width), all = rows_up(rows), nv = kp / CK_LANES;
  scale_rows(q_open, q, d->opening, rows, kp);
  scale_rows(k_close, k, d->closing, rows, kp);
  pack_transposed(k_t, CHUNK, k_close, kp, rows, width);
  for (size_t i0 = 0; i0 < all; i0 += BAND) {
    const size_t end = i0 + BAND < all ? i0 + BAND : all;
    if (i0 > BAND) { // one more band lies between these queries and all but the last keys
      const float *whole = d->whole + (i0 / BAND - 1) * kp;
      for (size_t c = 0; c < width; c++)
        for (size_t j = 0; j < i0 - BAND; j += CK_LANES) v_store(k_t + c * CHUNK + j, v_load(k_t + c * CHUNK + j) * whole[c]);
    }
    if (i0)
      for (size_t m = i0; m < end; m += TILE_ROWS)
        product(a + m * CHUNK, CHUNK, q_open + m * kp, kp, 1, k_t, CHUNK, 0, width, i0 / CK_LANES, 0);
    for (size_t i = i0; i < end; i++) {
      float *row = a + i * CHUNK;
      for (size_t j = 0; j < i0; j += CK_LANES) v_store(row + j, v_load(row + j) * scale);
      vf sums[BAND];
      for (size_t j = 0; j < BAND; j++) sums[j] = v_all(0);
      if (i < rows)
        for (size_t c = 0; c < nv; c += 4) { // four vectors of channels travel from i back to the start of the band
          const size_t count = nv - c < 4 ? nv - c : 4;
          vf x[4];
          for (size_t v = 0; v < count; v++) x[v] = v_load(q + i * kp + (c + v) * CK_LANES) * scale;
          for (size_t j = i + 1; j-- > i0;) {
            vf sum = sums[j - i0];
            for (size_t v = 0; v < count; v++) {
              const size_t at = j * kp + (c + v) * CK_LANES;
              sum = x[v] * v_load(k + at) + sum;
              x[v] = x[v] * v_load(d->step + at);
            }
            sums[j - i0] = sum;
          }
        }
      v_store(row + i0, sums16(sums));
    }
  }
}

CK_LOOP void CK_NAME(ck_channel_memory_forward)(float *out, float *final, float *kept, const ck_channel_memory_inputs *in, const ck_channel_memory_shape *s, float *scratch) {
  const size_t K = s->key_width, V = s->value_width, kp = lanes_up(K), vp = lanes_up(V), state = state_floats(s), step = s->heads * state;
  float *q = scratch, *k = q + CHUNK * kp, *q_open = k + CHUNK * kp, *spare = q_open + CHUNK * kp, *k_t = spare + CHUNK * kp;
  channel_decays d;
  d.step = k_t + CHUNK * kp;
  d.opening = d.step + CHUNK * kp;
  d.closing = d.opening + CHUNK * kp;
  d.reach = d.closing + CHUNK * kp;
  d.write = d.reach + CHUNK * kp;
  float *v = d.write + CHUNK * kp, *o = v + CHUNK * vp, *a = o + CHUNK * vp;
  d.whole = a + CHUNK * CHUNK;
  float *slots = d.whole + (CHUNK / BAND + 1) * kp;

  float *now = kept ? kept : slots;
  __builtin_memset(now, 0, step * sizeof(float));
  if (in->state)
    for (size_t h = 0; h < s->heads; h++)
      for (size_t r = 0; r < K; r++) __builtin_memcpy(now + h * state + r * vp, in->state + (h * K + r) * V, V * sizeof(float));
  for (size_t t = 0; t < s->tokens; t += CHUNK) {
    const size_t rows = s->tokens - t < CHUNK ? s->tokens - t : CHUNK, all = rows_up(rows);
    float *next = kept && t + rows < s->tokens ? now + step : now == slots ? slots + step : slots;
    for (size_t h = 0; h < s->heads; h++) {
      const size_t group = h / s->key_share;
      const float *old = now + h * state;
      float *new = next + h * state;
      pack_scaled(q, in->q + t * s->q_stride + h * K, s->q_stride, rows, K, 0, 0, CHUNK * (ptrdiff_t)s->q_stride);
      if (h % s->key_share == 0) {
        pack_scaled(k, in->k + t * s->k_stride + group * K, s->k_stride, rows, K, 0, 0, CHUNK * (ptrdiff_t)s->k_stride);
        pack_scaled(v, in->v + t * s->v_stride + group * V, s->v_stride, rows, V, 0, 0, CHUNK * (ptrdiff_t)s->v_stride);
        decays_of_chunk(&d, in->log_decay + t * s->decay_stride + group * K, s->decay_stride, rows, K);
      }
      scores_of_chunk(a, q_open, spare, k_t, q, k, &d, rows, K, s->scale);
      scale_rows(q, q, d.reach, rows, kp);
      float factor[TILE_ROWS] = {s->scale, s->scale, s->scale, s->scale};
      for (size_t m = 0; m < all; m += TILE_ROWS) {
        product_onto(o + m * vp, vp, 0, 0, factor, q + m * kp, kp, 1, old, vp, 0, K, vp / CK_LANES);
        product(o + m * vp, vp, a + m * CHUNK, CHUNK, 1, v, vp, 0, m + TILE_ROWS, vp / CK_LANES, 1);
      }
      unpack_rows(out + t * s->out_stride + h * V, s->out_stride, o, rows, V, CHUNK * (ptrdiff_t)s->out_stride);
      scale_rows(spare, k, d.write, rows, kp);
      for (size_t m = 0; m < rows_up(K); m++)
        for (size_t c = 0; c < vp; c += CK_LANES) v_store(new + m * vp + c, v_load(old + m * vp + c) * d.whole[CHUNK / BAND * kp + m]);
      for (size_t m = 0; m < rows_up(K); m += TILE_ROWS)
        product(new + m * vp, vp, spare + m, 1, kp, v, vp, 0, all, vp / CK_LANES, 1);
    }
    now = next;
  }
  if (final)
    for (size_t h = 0; h < s->heads; h++)
      for (size_t r = 0; r < K; r++) __builtin_memcpy(final + (h * K + r) * V, now + h * state + r * vp, V * sizeof(float));
}

// Inside the band of rows i0 ..< end, without the diagonal: dq_i += Σ_{j<i} p_ij k_j ⊙ decay(j → i), dk_j += Σ_{i>j} p_ij q_i ⊙ decay, both
// by Horner's rule along the band.
CK_PIECE void band_gradient(float *dq, float *dk, const float *p, const float *q, const float *k, const float *step, size_t i0, size_t end, size_t kp) {
  for (size_t c = 0; c < kp; c += CK_LANES) {
    for (size_t i = i0; i < end; i++) {
      vf sum = v_all(0);
      for (size_t j = i0; j < i; j++) sum = (p[i * CHUNK + j] * v_load(k + j * kp + c) + sum) * v_load(step + (j + 1) * kp + c);
      v_store(dq + i * kp + c, v_load(dq + i * kp + c) + sum);
      sum = v_all(0);
      for (size_t r = end; r-- > i + 1;) sum = (p[r * CHUNK + i] * v_load(q + r * kp + c) + sum) * v_load(step + r * kp + c);
      v_store(dk + i * kp + c, v_load(dk + i * kp + c) + sum);
    }
  }
}

CK_LOOP void CK_NAME(ck_channel_memory_backward)(const ck_channel_memory_gradients *to, const ck_channel_memory_inputs *in, const ck_channel_memory_shape *s, float *scratch) {
  const size_t K = s->key_width, V = s->value_width, kp = lanes_up(K), vp = lanes_up(V), state = state_floats(s), step = s->heads * state;
  const size_t keys = CHUNK * kp, values = CHUNK * vp;
  float *q = scratch, *k = q + keys, *q_open = k + keys, *k_close = q_open + keys, *k_t = k_close + keys;
  float *dq = k_t + keys, *dk = dq + keys, *dk_write = dk + keys, *close_gradient = dk_write + keys;
  float *dk_all = close_gradient + keys, *dg = dk_all + keys, *spare = dg + keys;
  channel_decays d;
  d.step = spare + keys;
  d.opening = d.step + keys;
  d.closing = d.opening + keys;
  d.reach = d.closing + keys;
  d.write = d.reach + keys;
  float *v = d.write + keys, *dout = v + values, *dv = dout + values, *v_t = dv + values;
  float *a = v_t + values, *p = a + CHUNK * CHUNK, *s_t = p + CHUNK * CHUNK, *ds_t = s_t + state;
  d.whole = ds_t + state;
  float *slots = d.whole + (CHUNK / BAND + 1) * kp;

  __builtin_memset(slots, 0, step * sizeof(float));
  if (to->dstate)
    for (size_t h = 0; h < s->heads; h++)
      for (size_t r = 0; r < K; r++) __builtin_memcpy(slots + h * state + r * vp, to->dstate + (h * K + r) * V, V * sizeof(float));
  for (size_t chunk = (s->tokens + CHUNK - 1) / CHUNK; chunk-- > 0;) {
    const size_t t = chunk * CHUNK, rows = s->tokens - t < CHUNK ? s->tokens - t : CHUNK, all = rows_up(rows), ld = lanes_up(rows);
    for (size_t h = 0; h < s->heads; h++) {
      const size_t group = h / s->key_share;
      const int first = h % s->key_share == 0;
      const float *old = to->kept + chunk * step + h * state;
      float *ds = slots + h * state;
      pack_scaled(q, in->q + t * s->q_stride + h * K, s->q_stride, rows, K, 0, 0, -CHUNK * (ptrdiff_t)s->q_stride);
      pack_scaled(dout, to->dout + t * s->out_stride + h * V, s->out_stride, rows, V, 0, 0, -CHUNK * (ptrdiff_t)s->out_stride);
      if (first) {
        pack_scaled(k, in->k + t * s->k_stride + group * K, s->k_stride, rows, K, 0, 0, -CHUNK * (ptrdiff_t)s->k_stride);
        pack_scaled(v, in->v + t * s->v_stride + group * V, s->v_stride, rows, V, 0, 0, -CHUNK * (ptrdiff_t)s->v_stride);
        pack_transposed(v_t, ld, v, vp, rows, V);
        decays_of_chunk(&d, in->log_decay + t * s->decay_stride + group * K, s->decay_stride, rows, K);
        __builtin_memset(dk_all, 0, keys * sizeof(float));
        __builtin_memset(dg, 0, keys * sizeof(float));
        __builtin_memset(dv, 0, values * sizeof(float));
      }
      scores_of_chunk(a, q_open, k_close, k_t, q, k, &d, rows, K, s->scale);
      lower_product(p, CHUNK, dout, vp, v_t, ld, all, V);
      for (size_t i = 0; i < all; i++)
        for (size_t j = 0; j < lanes_up(i / TILE_ROWS * TILE_ROWS + TILE_ROWS); j += CK_LANES) {
          vf value = v_load(p + i * CHUNK + j) * s->scale;
          v_store(p + i * CHUNK + j, v_select(v_iota() + (int32_t)j <= (int32_t)i, value, v_all(0)));
        }

      // Through the state.
      pack_transposed(s_t, kp, old, vp, K, V);
      pack_transposed(ds_t, kp, ds, vp, K, V);
      scale_rows(spare, k, d.write, rows, kp);
      for (size_t m = 0; m < all; m += TILE_ROWS) {
        product(dq + m * kp, kp, dout + m * vp, vp, 1, s_t, kp, 0, V, kp / CK_LANES, 0);
        product(dk_write + m * kp, kp, v + m * vp, vp, 1, ds_t, kp, 0, V, kp / CK_LANES, 0);
        product(dv + m * vp, vp, spare + m * kp, kp, 1, ds, vp, 0, K, vp / CK_LANES, 1);
        product(dv + m * vp, vp, a + m, 1, CHUNK, dout, vp, m, all, vp / CK_LANES, 1);
      }
      for (size_t i = 0; i < rows * kp; i += CK_LANES) {
        v_store(dq + i, v_load(dq + i) * (v_load(d.reach + i) * s->scale));
        v_store(dk_write + i, v_load(dk_write + i) * v_load(d.write + i));
      }
      __builtin_memset(dk, 0, keys * sizeof(float));

      // Between bands: keys as the query band sees them, and, from the last band on, the gradients that come back.
      for (size_t i0 = BAND; i0 < all; i0 += BAND) {
        const size_t end = i0 + BAND < all ? i0 + BAND : all;
        const float *whole = d.whole + (i0 / BAND - 1) * kp;
        for (size_t j = 0; j + BAND < i0; j++)
          for (size_t c = 0; c < kp; c += CK_LANES) v_store(k_close + j * kp + c, v_load(k_close + j * kp + c) * v_load(whole + c));
        for (size_t m = i0; m < end; m += TILE_ROWS) {
          product(spare + m * kp, kp, p + m * CHUNK, CHUNK, 1, k_close, kp, 0, i0, kp / CK_LANES, 0);
          for (size_t i = m * kp; i < (m + TILE_ROWS) * kp && i < rows * kp; i += CK_LANES)
            v_store(dq + i, v_load(spare + i) * v_load(d.opening + i) + v_load(dq + i));
        }
      }
      __builtin_memset(close_gradient, 0, keys * sizeof(float));
      for (size_t i0 = (all - 1) / BAND * BAND; i0 > 0; i0 -= BAND) {
        const size_t end = i0 + BAND < all ? i0 + BAND : all, own = i0 - BAND;
        for (size_t m = 0; m < i0; m += TILE_ROWS)
          product(close_gradient + m * kp, kp, p + i0 * CHUNK + m, 1, CHUNK, q_open + i0 * kp, kp, 0, end - i0, kp / CK_LANES, 1);
        const float *whole = d.whole + own / BAND * kp;
        for (size_t i = own * kp; i < i0 * kp; i += CK_LANES)
          v_store(dk + i, v_load(close_gradient + i) * v_load(d.closing + i));
        for (size_t j = 0; j < own; j++)
          for (size_t c = 0; c < kp; c += CK_LANES) v_store(close_gradient + j * kp + c, v_load(close_gradient + j * kp + c) * v_load(whole + c));
      }
      for (size_t i0 = 0; i0 < rows; i0 += BAND)
        band_gradient(dq, dk, p, q, k, d.step, i0, i0 + BAND < rows ? i0 + BAND : rows, kp);

      // Decays: what crosses token t, from both sides; a token's own product crosses nothing.
      for (size_t c = 0; c < kp; c += CK_LANES) {
        vf before = v_all(0);
        for (size_t i = 0; i < rows; i++) {
          const size_t at = i * kp + c;
          vf w = v_load(dk_write + at), key = v_load(k + at);
          v_store(dg + at, v_load(dg + at) + before);
          before = key * w + before;
        }
        vf after;
        for (int lane = 0; lane < CK_LANES; lane++) { // e^{b_last} ⊙ rowsum(S ⊙ dS')
          vf sum = v_all(0);
          const size_t row = c + (size_t)lane;
          if (row < K)
            for (size_t x = 0; x < vp; x += CK_LANES) sum = v_load(old + row * vp + x) * v_load(ds + row * vp + x) + sum;
          after[lane] = v_sum(sum);
        }
        after = after * v_load(d.whole + CHUNK / BAND * kp + c);
        for (size_t i = rows; i-- > 0;) {
          const size_t at = i * kp + c;
          vf x = v_load(q + at), y = v_load(k + at), own = v_all(p[i * CHUNK + i]);
          after = after + (x * v_load(dq + at) - y * v_load(dk + at));
          v_store(dg + at, v_load(dg + at) + after);
          v_store(dq + at, own * y + v_load(dq + at));
          v_store(dk_all + at, v_load(dk_all + at) + ((own * x + v_load(dk + at)) + v_load(dk_write + at)));
        }
      }
      unpack_rows(to->dq + t * s->q_stride + h * K, s->q_stride, dq, rows, K, -CHUNK * (ptrdiff_t)s->q_stride);

      for (size_t i = 0; i < rows * kp; i += CK_LANES) v_store(q + i, v_load(q + i) * (v_load(d.reach + i) * s->scale));
      for (size_t m = 0; m < rows_up(K); m++)
        for (size_t c = 0; c < vp; c += CK_LANES) v_store(ds + m * vp + c, v_load(ds + m * vp + c) * d.whole[CHUNK / BAND * kp + m]);
      for (size_t m = 0; m < rows_up(K); m += TILE_ROWS)
        product(ds + m * vp, vp, q + m, 1, kp, dout, vp, 0, all, vp / CK_LANES, 1);
      if ((h + 1) % s->key_share == 0) {
        unpack_rows(to->dk + t * s->k_stride + group * K, s->k_stride, dk_all, rows, K, -CHUNK * (ptrdiff_t)s->k_stride);
        unpack_rows(to->dv + t * s->v_stride + group * V, s->v_stride, dv, rows, V, -CHUNK * (ptrdiff_t)s->v_stride);
        unpack_rows(to->dlog_decay + t * s->decay_stride + group * K, s->decay_stride, dg, rows, K, -CHUNK * (ptrdiff_t)s->decay_stride);
      }
    }
  }
  if (to->dpast)
    for (size_t h = 0; h < s->heads; h++)
      for (size_t r = 0; r < K; r++) __builtin_memcpy(to->dpast + (h * K + r) * V, slots + h * state + r * vp, V * sizeof(float));
}
