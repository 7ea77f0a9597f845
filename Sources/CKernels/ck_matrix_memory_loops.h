// Matrix memories for one instruction-set variant; included by ck_matrix_memory.c. See include/ck_matrix_memory.h for the mathematics.
//
// Chunk forward, per head, with D, reach, write and keep of chunk_gates:
//   A = scale (Q Kᵀ) ⊙ D;   num = A Ṽ + scale reach ⊙ (Q S);   σ = rowsum A + scale reach ⊙ (Q n)
//   S' = keep S + Kᵀ (write ⊙ Ṽ);   n' = keep n + Σ write ⊙ K
// Chunk backward, dnum = dO/den, dσ = −slope (dO·O)/den, m constant:
//   P = scale D ⊙ (dnum Ṽᵀ + dσ 1ᵀ);   dQ = P K + scale reach ⊙ (dnum Sᵀ + dσ nᵀ);   dK = Pᵀ Q + write ⊙ (Ṽ dS'ᵀ + 1 dn'ᵀ)
//   dṼ = Aᵀ dnum + write ⊙ (K dS');   dS = keep dS' + Qᵀ (scale reach ⊙ dnum);   dn = keep dn' + Σ scale reach dσ ⊙ Q
//   Z = P ⊙ Q Kᵀ, h = rowsum(K ⊙ the write part of dK), r = rowsum(Q ⊙ the reach part of dQ):
//   dlog i_j = Σ_i Z_ij + h_j;   db_i = Σ_{j<i} Z_ij − Σ_{j>i} Z_ji + r_i − h_i;   db_last += Σ h + keep (⟨S, dS'⟩ + n·dn');
//   dlog f = sums of db from the end of the chunk. The diagonal of Z is left out where it cancels.
//
// Ladder: one head at a time in chunks of 64, all operands packed in L2, B panels of a product in L1. Heads that share
// queries and keys share Q Kᵀ, and their P are added up before the products with Q and K.
#include "ck_small_matrix.h"

#define gates_of_chunk CK_NAME(ck_memory_gates)
#define decayed_scores CK_NAME(ck_memory_decayed_scores)
#define load_state CK_NAME(ck_memory_load_state)
#define store_state CK_NAME(ck_memory_store_state)
#define row_dot CK_NAME(ck_memory_row_dot)
#define factor_at CK_NAME(ck_memory_factor_at)
#define taylor_row CK_NAME(ck_memory_taylor_row)
#define taylor_row_gradient CK_NAME(ck_memory_taylor_row_gradient)
#define pack_keys CK_NAME(ck_memory_pack_keys)
#define unpack_keys CK_NAME(ck_memory_unpack_keys)
#define add_rows CK_NAME(ck_memory_add_rows)

#define state_dot CK_NAME(ck_memory_state_dot)
#define norm_dot CK_NAME(ck_memory_norm_dot)

#undef LOG2E
#define LOG2E 1.44269504088896341

CK_INLINE float row_dot(const float *a, const float *b, size_t n) {
  vf sum = {0};
  for (size_t i = 0; i < n; i += CK_LANES) sum = v_load(a + i) * v_load(b + i) + sum;
  return v_sum(sum);
}

// y = 1, x / d^¼, then x_i x_j / √d for j > i with x_i² / √(2d) at j = i, i by i.
CK_INLINE void taylor_row(float *y, const float *x, size_t width) {
  const float root = __builtin_sqrtf((float)width), linear = 1.0f / __builtin_sqrtf(root), pair = 1.0f / root, square = pair * 0.707106781f;
  *y++ = 1.0f;
  EACH(width, STORE(y, LOAD(x) * linear););
  y += width;
  if (width == CK_LANES) { // from the last i: what a whole vector writes in front of its pairs is overwritten
    const vf all = v_load(x);
    y += CK_LANES * (CK_LANES + 1) / 2;
#pragma clang loop unroll(full)
    for (int c = CK_LANES - 1; c >= 0; c--) {
      y -= CK_LANES - c;
      v_store(y - c, all * x[c] * v_select(v_iota() == c, v_all(square), v_all(pair)));
    }
    return;
  }
  for (size_t c = 0; c < width; c++) {
    const float *rest = x + c;
    const float factor = x[c] * pair;
    EACH(width - c, STORE(y, LOAD(rest) * factor););
    y[0] = x[c] * x[c] * square;
    y += width - c;
  }
}

// With U the upper triangle of dy by pairs, its factors in it: dx = linear part + (U + Uᵀ) x.
CK_INLINE void taylor_row_gradient(float *dx, const float *dy, const float *x, size_t width) {
  const float root = __builtin_sqrtf((float)width), linear = 1.0f / __builtin_sqrtf(root), pair = 1.0f / root, square = pair * 0.707106781f;
  dy++;
  if (width == CK_LANES) {
    vf upper[16], sum = v_load(dy) * linear, other = {0};
    dy += CK_LANES;
#pragma clang loop unroll(full)
    for (int c = 0; c < CK_LANES; c++) {
      vf factor = v_select(v_iota() == c, v_all(square), v_all(pair));
      upper[c] = v_select(v_iota() >= c, v_load(dy - c), v_all(0)) * factor;
      sum = upper[c] * x[c] + sum;
      dy += CK_LANES - c;
    }
    transpose16(upper);
#pragma clang loop unroll(full)
    for (int c = 0; c < CK_LANES; c++) other = upper[c] * x[c] + other;
    v_store(dx, sum + other);
    return;
  }
  EACH(width, STORE(dx, LOAD(dy) * linear););
  dy += width;
  for (size_t c = 0; c < width; c++) { // the diagonal, then the pairs to its right
    dx[c] += 2.0f * square * dy[0] * x[c];
    const float *slope = dy + 1, *rest = x + c + 1;
    float *to = dx + c + 1;
    const float factor = x[c] * pair;
    vf sum = {0};
    EACH(width - c - 1, {
      sum = LOAD(slope) * LOAD(rest) + sum;
      STORE(to, LOAD(slope) * factor + LOAD(to));
    });
    dx[c] += v_sum(sum) * pair;
    dy += width - c;
  }
}

// Rows of queries or keys, packed; their features, where only channels are given.
CK_PIECE void pack_keys(float *out, const float *in, ptrdiff_t stride, size_t rows, const ck_memory_shape *s, ptrdiff_t ahead) {
  const size_t K = s->key_width, kp = lanes_up(K), f = s->raw_width;
  if (!f) {
    pack_scaled(out, in, stride, rows, K, 0, 0, ahead);
    return;
  }
  for (size_t r = 0; r < rows; r++, in += stride, out += kp) {
    for (size_t c = 0; c < f; c += CK_LANES) __builtin_prefetch(in + c + ahead, 0, 2);
    v_store(out + kp - CK_LANES, v_all(0)); // first: features end in this vector
    taylor_row(out, in, f);
  }
  __builtin_memset(out, 0, (rows_up(rows) - rows) * kp * sizeof(float));
}

// The gradients of packed rows to where the rows lie; `from`: the rows themselves, for those of features.
CK_PIECE void unpack_keys(float *out, const float *from, ptrdiff_t stride, const float *in, size_t rows, const ck_memory_shape *s, ptrdiff_t ahead) {
  if (!s->raw_width) {
    unpack_rows(out, stride, in, rows, s->key_width, ahead);
    return;
  }
  for (size_t r = 0; r < rows; r++, out += stride, from += stride, in += lanes_up(s->key_width)) taylor_row_gradient(out, in, from, s->raw_width);
}

// out += in
CK_PIECE void add_rows(float *out, ptrdiff_t stride, const float *in, size_t rows, size_t width, ptrdiff_t ahead) {
  for (size_t r = 0; r < rows; r++, out += stride, in += lanes_up(width))
    EACH(width, { STORE(out, LOAD(out) + v_load(in + i)); __builtin_prefetch(out + i + ahead, 1, 2); });
}

// D_ij for the columns at j, unmasked.
CK_INLINE vf factor_at(const chunk_gates *g, size_t i, size_t j) {
  return v_exp2_flush((v_load(g->c_high + j) - g->m_high[i]) + (v_load(g->c_low + j) - g->m_low[i]));
}

// Fills in the gates of `rows` tokens; what lies beyond them is 0. Returns 0 when there are none and all factors are 1.
CK_PIECE int gates_of_chunk(chunk_gates *g, const ck_memory_shape *s, const float *log_decay, const float *log_input, size_t rows, float maximum) {
  g->maximum = 0;
  g->keep = 1;
  g->source = -1;
  if (!log_decay && !log_input) {
    for (size_t i = 0; i < CHUNK; i++) g->reach[i] = g->write[i] = i < rows;
    return 0;
  }
  double sum = 0, start = s->exponential ? (double)maximum * LOG2E : 0, top = start;
  double last = 0;
  float high[CHUNK], low[CHUNK];
  for (size_t i = 0; i < CHUNK; i++) {
    g->c_high[i] = g->c_low[i] = g->m_low[i] = g->floor[i] = low[i] = 0;
    g->m_high[i] = 1e30f; // D = 0: a padding row would otherwise multiply its zeros by infinity
    high[i] = -1e30f;
    if (i >= rows) continue;
    if (log_decay) sum += (double)log_decay[(ptrdiff_t)i * s->gate_stride] * LOG2E;
    double c = (log_input ? (double)log_input[(ptrdiff_t)i * s->gate_stride] * LOG2E : 0) - sum;
    if (c > top || c != c) {
      top = c;
      if (s->exponential) g->source = (int)i;
    }
    double m = s->exponential ? top : -sum;
    g->c_high[i] = (float)c;
    g->c_low[i] = (float)(c - (double)g->c_high[i]);
    g->m_high[i] = (float)m;
    g->m_low[i] = (float)(m - (double)g->m_high[i]);
    high[i] = (float)(start - m);
    low[i] = (float)((start - m) - (double)high[i]);
    g->floor[i] = (float)(-sum - m);
    last = m;
  }
  if (s->exponential) { // the maximum is handed on as a float: what is written is scaled by exactly that
    g->maximum = (float)((sum + last) / LOG2E);
    last = (double)g->maximum * LOG2E - sum;
  }
  const float last_high = (float)last, last_low = (float)(last - (double)last_high);
  g->keep = v_exp2_flush(v_all((float)(start - last)))[0];
  for (size_t i = 0; i < CHUNK; i += CK_LANES) {
    vi inside = v_iota() + (int32_t)i < (int32_t)rows;
    v_store(g->reach + i, v_select(inside, v_exp2_flush(v_load(high + i) + v_load(low + i)), v_all(0)));
    vf c = (v_load(g->c_high + i) - last_high) + (v_load(g->c_low + i) - last_low);
    v_store(g->write + i, v_select(inside, v_exp2_flush(v_select(inside, c, v_all(0))), v_all(0)));
    if (s->exponential) v_store(g->floor + i, v_exp(v_load(g->floor + i) * 0.693147181f));
  }
  return 1;
}

// a = scale · scores ⊙ D below and on the diagonal, 0 above it, up to the width of the row's tile.
CK_PIECE void decayed_scores(float *a, const float *scores, const chunk_gates *g, int gated, size_t rows, float scale) {
  for (size_t i = 0; i < rows; i++) {
    const size_t width = lanes_up(i / TILE_ROWS * TILE_ROWS + TILE_ROWS);
    for (size_t j = 0; j < width; j += CK_LANES) {
      vf value = v_load(scores + i * CHUNK + j) * scale;
      if (gated) value = value * factor_at(g, i, j);
      if (j + CK_LANES > i) value = v_select(v_iota() + (int32_t)j <= (int32_t)i, value, v_all(0));
      v_store(a + i * CHUNK + j, value);
    }
  }
}

// A slot from the state outside; zeros without one.
CK_PIECE void load_state(float *slot, const ck_memory_shape *s, size_t head, const float *state, const float *norm, const float *maximum) {
  const size_t k = s->key_width, v = s->value_width, ld = lanes_up(v);
  __builtin_memset(slot, 0, slot_floats(s) * sizeof(float));
  if (state) {
    if (s->transposed)
      pack_transposed(slot, ld, state + head * k * v, k, v, k);
    else
      for (size_t r = 0; r < k; r++) __builtin_memcpy(slot + r * ld, state + (head * k + r) * v, v * sizeof(float));
  }
  slot += state_floats(s);
  if (norm) __builtin_memcpy(slot, norm + head * k, k * sizeof(float));
  if (maximum) slot[lanes_up(k)] = maximum[head];
}

CK_PIECE void store_state(const float *slot, const ck_memory_shape *s, size_t head, float *state, float *norm, float *maximum) {
  const size_t k = s->key_width, v = s->value_width, ld = lanes_up(v);
  if (state && s->transposed && k % CK_LANES == 0) {
    pack_transposed(state + head * k * v, k, slot, ld, k, v);
  } else if (state) {
    for (size_t r = 0; r < k; r++)
      for (size_t c = 0; c < v; c++) state[head * k * v + (s->transposed ? c * k + r : r * v + c)] = slot[r * ld + c];
  }
  slot += state_floats(s);
  if (norm) __builtin_memcpy(norm + head * k, slot, k * sizeof(float));
  if (maximum) maximum[head] = slot[lanes_up(k)];
}

// ⟨S, dS⟩ and n·dn of one head, 0 where there is none.
CK_PIECE float state_dot(const ck_memory_shape *s, size_t head, const float *x, const float *dx) {
  const size_t n = s->key_width * s->value_width;
  vf sum = {0};
  if (x && dx) EACH(n, sum = LOAD(x + head * n) * LOAD(dx + head * n) + sum;);
  return v_sum(sum);
}
CK_PIECE float norm_dot(const ck_memory_shape *s, size_t head, const float *x, const float *dx) {
  vf sum = {0};
  if (x && dx) EACH(s->key_width, sum = LOAD(x + head * s->key_width) * LOAD(dx + head * s->key_width) + sum;);
  return v_sum(sum);
}

CK_LOOP void CK_NAME(ck_memory_forward)(const ck_memory_shape *s, const ck_memory_inputs *in, const ck_memory_results *to, float *scratch) {
  const size_t K = s->key_width, V = s->value_width, kp = lanes_up(K), vp = lanes_up(V);
  const size_t state = state_floats(s), slot = slot_floats(s), step = s->heads * slot;
  float *q = scratch, *k = q + CHUNK * kp, *k_t = k + CHUNK * kp, *v = k_t + CHUNK * kp, *v_write = v + CHUNK * vp;
  float *o = v_write + CHUNK * vp, *scores = o + CHUNK * vp, *a = scores + CHUNK * CHUNK, *slots = a + CHUNK * CHUNK;
  const size_t between = s->raw_width ? s->raw_width : K; // heads of queries and keys
  const ptrdiff_t q_ahead = CHUNK * s->q_stride, k_ahead = CHUNK * s->k_stride;
  chunk_gates g;

  // States go from slot to slot: those kept for the backward, or two of scratch in turn.
  float *now = to->kept ? to->kept : slots;
  for (size_t h = 0; h < s->heads; h++) load_state(now + h * slot, s, h, in->state, in->norm, in->maximum);
  for (size_t t = 0, chunk = 0; t < s->tokens; t += CHUNK, chunk++) {
    const size_t rows = s->tokens - t < CHUNK ? s->tokens - t : CHUNK, all = rows_up(rows);
    const int last = t + rows == s->tokens;
    float *next = to->kept && !last ? now + step : now == slots ? slots + step : slots;
    for (size_t h = 0; h < s->heads; h++) {
      const ptrdiff_t at = (ptrdiff_t)t, gate = at * s->gate_stride + (ptrdiff_t)h;
      const float *old = now + h * slot, *old_norm = old + state;
      float *new = next + h * slot, *new_norm = new + state;
      const int new_q = h % s->query_share == 0, new_k = h % s->key_share == 0;
      if (new_k) pack_keys(k, in->k + at * s->k_stride + h / s->key_share * between, s->k_stride, rows, s, k_ahead);
      const float *values = in->v + at * s->v_stride + h / s->value_share * V;
      pack_scaled(v, values, s->v_stride, rows, V, in->value_scale ? in->value_scale + gate : 0, s->gate_stride, CHUNK * s->v_stride);

      int gated = gates_of_chunk(&g, s, in->log_decay ? in->log_decay + gate : 0, in->log_input ? in->log_input + gate : 0, rows, old[slot - 16]);
      new[slot - 16] = g.maximum;
      pack_scaled(v_write, v, vp, rows, vp, g.write, 1, 0);
      for (size_t m = 0; m < rows_up(K); m += TILE_ROWS)
        product_onto(new + m * vp, vp, old + m * vp, g.keep, 0, k + m, 1, kp, v_write, vp, 0, all, vp / CK_LANES);
      if (s->normalized)
        for (size_t c = 0; c < kp; c += CK_LANES) {
          vf sum = v_load(old_norm + c) * g.keep;
          for (size_t j = 0; j < rows; j++) sum = v_load(k + j * kp + c) * g.write[j] + sum;
          v_store(new_norm + c, sum);
        }
      if (!in->q) continue;

      if (new_q) pack_keys(q, in->q + at * s->q_stride + h / s->query_share * between, s->q_stride, rows, s, q_ahead);
      if (new_k) pack_transposed(k_t, lanes_up(rows), k, (ptrdiff_t)kp, rows, K);
      if (new_q || new_k) lower_product(scores, CHUNK, q, kp, k_t, lanes_up(rows), all, K);
      decayed_scores(a, scores, &g, gated, all, s->scale);
      float reach[CHUNK];
      for (size_t i = 0; i < all; i++) reach[i] = g.reach[i] * s->scale;
      for (size_t m = 0; m < all; m += TILE_ROWS) {
        product_onto(o + m * vp, vp, 0, 0, reach + m, q + m * kp, kp, 1, old, vp, 0, K, vp / CK_LANES);
        product(o + m * vp, vp, a + m * CHUNK, CHUNK, 1, v, vp, 0, m + TILE_ROWS, vp / CK_LANES, 1);
      }

      float *out = to->out + at * s->out_stride + h * V;
      if (s->normalized)
        for (size_t i = 0; i < rows; i++) {
          vf sum = {0};
          for (size_t j = 0; j <= i; j += CK_LANES) sum = sum + v_load(a + i * CHUNK + j);
          float sigma = v_sum(sum) + reach[i] * row_dot(q + i * kp, old_norm, kp), slope = 1, size = sigma;
          if (s->exponential || s->floor >= 0) {
            float floor = s->exponential ? g.floor[i] : s->floor;
            size = sigma < 0 ? -sigma : sigma;
            slope = sigma < 0 ? -1.0f : 1.0f;
            if (size <= floor) { size = floor; slope = 0; }
          }
          float den = size + s->epsilon, inverse = 1.0f / den, *row = o + i * vp;
          to->denominator[gate + (ptrdiff_t)i * s->gate_stride] = den;
          to->slope[gate + (ptrdiff_t)i * s->gate_stride] = slope;
          for (size_t c = 0; c < vp; c += CK_LANES) v_store(row + c, v_load(row + c) * inverse);
        }
      if (in->skip) {
        float d = in->skip[h];
        for (size_t i = 0; i < rows; i++) {
          const float *row = o + i * vp, *x = values + (ptrdiff_t)i * s->v_stride;
          float *y = out + (ptrdiff_t)i * s->out_stride;
          EACH(V, STORE(y, LOAD(x) * d + LOAD(row)););
        }
      } else if (to->add) {
        add_rows(out, s->out_stride, o, rows, V, CHUNK * s->out_stride);
      } else {
        unpack_rows(out, s->out_stride, o, rows, V, CHUNK * s->out_stride);
      }
    }
    now = next;
  }
  for (size_t h = 0; h < s->heads; h++) store_state(now + h * slot, s, h, to->state, to->norm, to->maximum);
}

CK_LOOP void CK_NAME(ck_memory_backward)(const ck_memory_shape *s, const ck_memory_inputs *in, const ck_memory_gradients *to, float *scratch) {
  const size_t K = s->key_width, V = s->value_width, kp = lanes_up(K), vp = lanes_up(V), square = CHUNK * CHUNK;
  const size_t state = state_floats(s), slot = slot_floats(s), step = s->heads * slot;
  float *q = scratch, *k = q + CHUNK * kp, *k_t = k + CHUNK * kp, *dq = k_t + CHUNK * kp, *dk = dq + CHUNK * kp;
  float *dk_write = dk + CHUNK * kp, *dq_reach = dk_write + CHUNK * kp;
  float *v = dq_reach + CHUNK * kp, *v_t = v + CHUNK * vp, *d = v_t + CHUNK * vp, *d_reach = d + CHUNK * vp;
  float *dv = d_reach + CHUNK * vp, *dv_all = dv + CHUNK * vp, *spare = dv_all + CHUNK * vp;
  float *scores = spare + CHUNK * vp, *a = scores + square, *p = a + square, *p_all = p + square;
  float *s_t = p_all + square, *ds_t = s_t + state, *slots = ds_t + state, *column = slots + step;
  float *row = column + CHUNK, *dsigma = row + CHUNK, *dsigma_reach = dsigma + CHUNK;
  const size_t between = s->raw_width ? s->raw_width : K;
  const ptrdiff_t q_ahead = -CHUNK * s->q_stride, k_ahead = -CHUNK * s->k_stride, v_ahead = -CHUNK * s->v_stride;
  const int asked = in->q != 0;
  chunk_gates g;

  for (size_t h = 0; h < s->heads; h++) {
    load_state(slots + h * slot, s, h, to->dstate, to->dnorm, to->dmaximum);
    // Outputs do not feel the maximum, but the final state does: times e^{−m}. Later chunks that only read it, consistently,
    // make this difference vanish.
    if (s->exponential) slots[h * slot + slot - 16] -= state_dot(s, h, to->state, to->dstate) + norm_dot(s, h, to->norm, to->dnorm);
    if (to->dskip) to->dskip[h] = 0;
  }
  const size_t chunks = (s->tokens + CHUNK - 1) / CHUNK;
  for (size_t chunk = chunks; chunk-- > 0;) {
    const size_t t = chunk * CHUNK, rows = s->tokens - t < CHUNK ? s->tokens - t : CHUNK, all = rows_up(rows), ld = lanes_up(rows);
    for (size_t h = 0; h < s->heads; h++) {
      const ptrdiff_t at = (ptrdiff_t)t, gate = at * s->gate_stride + (ptrdiff_t)h;
      const float *old = to->kept + chunk * step + h * slot, *old_norm = old + state;
      float *ds = slots + h * slot, *dnorm = ds + state;
      const int new_q = h % s->query_share == 0, new_k = h % s->key_share == 0, new_v = h % s->value_share == 0;
      const int end_q = (h + 1) % s->query_share == 0, end_k = (h + 1) % s->key_share == 0, end_v = (h + 1) % s->value_share == 0;
      const ptrdiff_t query = at * s->q_stride + (ptrdiff_t)(h / s->query_share * between);
      const ptrdiff_t key = at * s->k_stride + (ptrdiff_t)(h / s->key_share * between);
      if (new_q && asked) pack_keys(q, in->q + query, s->q_stride, rows, s, q_ahead);
      if (new_k) {
        pack_keys(k, in->k + key, s->k_stride, rows, s, k_ahead);
        if (asked) pack_transposed(k_t, ld, k, (ptrdiff_t)kp, rows, K);
      }
      if (asked && (new_q || new_k)) lower_product(scores, CHUNK, q, kp, k_t, ld, all, K);
      const float *values = in->v + at * s->v_stride + h / s->value_share * V;
      const float *value_scale = in->value_scale ? in->value_scale + gate : 0;
      pack_scaled(v, values, s->v_stride, rows, V, value_scale, s->gate_stride, v_ahead);
      int gated = gates_of_chunk(&g, s, in->log_decay ? in->log_decay + gate : 0, in->log_input ? in->log_input + gate : 0, rows, old[slot - 16]);
      float reach[CHUNK], diagonal[CHUNK];
      for (size_t i = 0; i < all; i++) reach[i] = g.reach[i] * s->scale;
      for (size_t j = 0; j < CHUNK; j++) column[j] = row[j] = diagonal[j] = dsigma[j] = dsigma_reach[j] = 0;

      const float *dout = asked ? to->dout + at * s->out_stride + h * V : 0;
      if (asked && s->normalized) { // dnum and dσ
        const float *out = to->out + at * s->out_stride + h * V, *den = to->denominator + gate, *slope = to->slope + gate;
        for (size_t i = 0; i < rows; i++) {
          const float *x = dout + (ptrdiff_t)i * s->out_stride, *y = out + (ptrdiff_t)i * s->out_stride;
          float inverse = 1.0f / den[(ptrdiff_t)i * s->gate_stride], *to_row = d + i * vp;
          vf dot = {0};
          EACH(V, { vf value = LOAD(x); dot = value * LOAD(y) + dot; v_store(to_row + i, value * inverse); });
          dsigma[i] = -slope[(ptrdiff_t)i * s->gate_stride] * v_sum(dot) * inverse;
          dsigma_reach[i] = dsigma[i] * reach[i];
        }
        __builtin_memset(d + rows * vp, 0, (all - rows) * vp * sizeof(float));
      } else if (asked) {
        pack_scaled(d, dout, s->out_stride, rows, V, 0, 0, -CHUNK * s->out_stride);
      }

      // P, and the sums of Z along rows and columns without its diagonal, which goes to `diagonal`.
      if (asked) {
        decayed_scores(a, scores, &g, gated, all, s->scale);
        pack_scaled(d_reach, d, (ptrdiff_t)vp, rows, vp, reach, 1, 0);
        pack_transposed(v_t, ld, v, (ptrdiff_t)vp, rows, V);
        lower_product(p, CHUNK, d, vp, v_t, ld, all, V);
      }
      for (size_t i = 0; i < (asked ? all : 0); i++) {
        const size_t width = lanes_up(i / TILE_ROWS * TILE_ROWS + TILE_ROWS);
        const float shift = s->normalized ? dsigma[i] : 0;
        float *own = p + i * CHUNK;
        vf sum = {0};
        for (size_t j = 0; j < width; j += CK_LANES) {
          vf value = (v_load(own + j) + shift) * s->scale, score = v_load(scores + i * CHUNK + j), z;
          if (gated) value = value * factor_at(&g, i, j);
          if (j + CK_LANES > i) {
            vi lane = v_iota() + (int32_t)j;
            value = v_select(lane <= (int32_t)i, value, v_all(0));
            z = v_select(lane < (int32_t)i, value * score, v_all(0));
          } else {
            z = value * score;
          }
          v_store(own + j, value);
          v_store(column + j, v_load(column + j) + z);
          sum = sum + z;
        }
        row[i] = v_sum(sum);
        diagonal[i] = own[i] * scores[i * CHUNK + i];
      }
      const int shared = asked && s->query_share > 1 && s->key_share > 1;
      if (shared) {
        const int first = new_q || new_k;
        for (size_t i = 0; i < all; i++)
          for (size_t j = 0; j < lanes_up(i + 1); j += CK_LANES) {
            float *sum = p_all + i * CHUNK + j;
            v_store(sum, first ? v_load(p + i * CHUNK + j) : v_load(sum) + v_load(p + i * CHUNK + j));
          }
      }

      // Through the state: into queries from S, into keys and values from dS'.
      if (asked) pack_transposed(s_t, kp, old, (ptrdiff_t)vp, K, V);
      pack_transposed(ds_t, kp, ds, (ptrdiff_t)vp, K, V);
      for (size_t m = 0; m < all; m += TILE_ROWS) {
        if (asked) product_onto(dq_reach + m * kp, kp, 0, 0, reach + m, d + m * vp, vp, 1, s_t, kp, 0, V, kp / CK_LANES);
        product_onto(dk_write + m * kp, kp, 0, 0, g.write + m, v + m * vp, vp, 1, ds_t, kp, 0, V, kp / CK_LANES);
        product_onto(dv + m * vp, vp, 0, 0, g.write + m, k + m * kp, kp, 1, ds, vp, 0, K, vp / CK_LANES);
        if (asked) product(dv + m * vp, vp, a + m, 1, CHUNK, d, vp, m, all, vp / CK_LANES, 1);
      }
      double written = 0, db[CHUNK]; // large terms cancel in their sums
      for (size_t i = 0; i < all; i++) {
        const float shift = s->normalized ? dsigma_reach[i] : 0, weight = s->normalized ? g.write[i] : 0;
        vf from_q = {0}, from_k = {0};
        for (size_t c = 0; c < kp; c += CK_LANES) {
          vf y = v_load(dk_write + i * kp + c);
          if (s->normalized) y = v_load(dnorm + c) * weight + y;
          from_k = y * v_load(k + i * kp + c) + from_k;
          if (asked) {
            vf x = v_load(dq_reach + i * kp + c);
            if (s->normalized) x = v_load(old_norm + c) * shift + x;
            from_q = x * v_load(q + i * kp + c) + from_q;
            v_store(dq + i * kp + c, new_q ? x : v_load(dq + i * kp + c) + x);
          }
          v_store(dk + i * kp + c, new_k ? y : v_load(dk + i * kp + c) + y);
        }
        const float r = v_sum(from_q), w = v_sum(from_k);
        db[i] = ((double)row[i] - (double)column[i]) + ((double)r - (double)w);
        if (to->dlog_input && i < rows) to->dlog_input[gate + (ptrdiff_t)i * s->gate_stride] = column[i] + diagonal[i] + w;
        written += (double)w;
      }

      // What reaches the maximum goes to the gate it came from, or on to the chunk before.
      float *dmaximum = ds + slot - 16;
      const float through_maximum = *dmaximum;
      if (g.source >= 0) {
        to->dlog_input[gate + g.source * s->gate_stride] += through_maximum;
        db[g.source] -= (double)through_maximum;
        *dmaximum = 0;
      }

      // dS, in place; what dS' and S have in common belongs to the decay of the whole chunk.
      if (to->dlog_decay) {
        vf common = {0};
        for (size_t i = 0; i < rows_up(K) * vp; i += CK_LANES) common = v_load(old + i) * v_load(ds + i) + common;
        if (s->normalized) for (size_t i = 0; i < kp; i += CK_LANES) common = v_load(old_norm + i) * v_load(dnorm + i) + common;
        double sum = written + (double)(g.keep * v_sum(common)) + (double)through_maximum;
        for (size_t i = rows; i-- > 0;) {
          sum += db[i];
          to->dlog_decay[gate + (ptrdiff_t)i * s->gate_stride] = (float)sum;
        }
      }
      for (size_t m = 0; m < rows_up(K); m += TILE_ROWS)
        product_onto(ds + m * vp, vp, ds + m * vp, g.keep, 0, q + m, 1, kp, d_reach, vp, 0, asked ? all : 0, vp / CK_LANES);
      if (s->normalized)
        for (size_t c = 0; c < kp; c += CK_LANES) {
          vf sum = v_load(dnorm + c) * g.keep;
          for (size_t i = 0; i < (asked ? rows : 0); i++) sum = v_load(q + i * kp + c) * dsigma_reach[i] + sum;
          v_store(dnorm + c, sum);
        }

      // Values: back through their scale, and the skip.
      vf skipped = {0};
      const float skip = in->skip ? in->skip[h] : 0;
      for (size_t j = 0; j < rows; j++) {
        const ptrdiff_t token = (ptrdiff_t)j;
        const float factor = value_scale ? value_scale[token * s->gate_stride] : 1.0f;
        const float *x = values + token * s->v_stride, *upstream = in->skip ? dout + token * s->out_stride : 0;
        float *own = dv + j * vp, *sum = dv_all + j * vp;
        vf dot = {0};
        EACH(V, {
          vf value = LOAD(x), slope = v_load(own + i), direct = v_all(0);
          dot = value * slope + dot;
          if (in->skip) {
            direct = LOAD(upstream) * skip;
            skipped = LOAD(upstream) * value + skipped;
          }
          slope = slope * factor + direct;
          v_store(sum + i, new_v ? slope : v_load(sum + i) + slope);
        });
        if (to->dvalue_scale) to->dvalue_scale[gate + token * s->gate_stride] = v_sum(dot);
      }
      if (to->dskip) to->dskip[h] += v_sum(skipped);

      if (asked && (!shared || end_q || end_k)) {
        const float *sums = shared ? p_all : p;
        for (size_t m = 0; m < all; m += TILE_ROWS) {
          product(dq + m * kp, kp, sums + m * CHUNK, CHUNK, 1, k, kp, 0, m + TILE_ROWS, kp / CK_LANES, 1);
          product(dk + m * kp, kp, sums + m, 1, CHUNK, q, kp, m, all, kp / CK_LANES, 1);
        }
      }
      if (end_q && asked) unpack_keys(to->dq + query, in->q + query, s->q_stride, dq, rows, s, q_ahead);
      if (end_k) unpack_keys(to->dk + key, in->k + key, s->k_stride, dk, rows, s, k_ahead);
      float *dvalues = to->dv + at * s->v_stride + h / s->value_share * V;
      if (end_v && to->add_values) add_rows(dvalues, s->v_stride, dv_all, rows, V, v_ahead);
      else if (end_v) unpack_rows(dvalues, s->v_stride, dv_all, rows, V, v_ahead);
    }
  }
  for (size_t h = 0; h < s->heads; h++) {
    store_state(slots + h * slot, s, h, to->dpast, to->dpast_norm, to->dpast_maximum);
    if (to->dpast_maximum) to->dpast_maximum[h] += state_dot(s, h, in->state, to->dpast) + norm_dot(s, h, in->norm, to->dpast_norm);
  }
}
