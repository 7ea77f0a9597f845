// The delta rule for one instruction-set variant; included by ck_delta.c. See include/ck_delta.h for the mathematics.
//
// A chunk's rows are a unit lower triangular system (the WY form of arXiv 2406.06484, section 3.2): with b the running sum
// of log-decays, D = e^{b_i − b_j} and N = K Kᵀ ⊙ D strictly below the diagonal,
//   W = V − e^b (K S) − N U,  U = β W,  O = e^b (Q S) + (Q Kᵀ ⊙ D) U,  S' = e^{b_last} S + (e^{b_last − b} K)ᵀ U.
// The system is solved by substitution, four rows at a time in registers: as fast as a product, and safe for any keys,
// where powers of N would cancel. The backward recomputes all from the state before the chunk.
//
// Decays are products of e^g along the rows rather than e^{b_i − b_j}: one exponential a token, and no cancellation
// between large sums. They become zero before they become subnormal, which would slow what follows.
//
// Ladder: everything of a chunk stays in L2, the operands of each product in L1. Triangular blocks are walked in tiles of
// four rows up to their diagonal. Solving for W instead of U costs nothing and spares the gradient of β a division by β.
#include "ck_small_matrix.h"

#define prefetch_rows CK_NAME(ck_delta_prefetch_rows)
#define scale_rows CK_NAME(ck_delta_scale_rows)
#define dot CK_NAME(ck_delta_dot)
#define unit_row CK_NAME(ck_delta_unit_row)
#define unit_row_gradient CK_NAME(ck_delta_unit_row_gradient)
#define mask_row CK_NAME(ck_delta_mask_row)
#define mask_row_gradient CK_NAME(ck_delta_mask_row_gradient)
#define store_rows CK_NAME(ck_delta_store_rows)
#define solve_tile CK_NAME(ck_delta_solve_tile)
#define solve CK_NAME(ck_delta_solve)
#define prepare CK_NAME(ck_delta_prepare)
#define write_rows CK_NAME(ck_delta_write_rows)

// Rows m ..< m + TILE_ROWS of the next chunk, on their way to L2 while this one is computed: rows of a head lie far apart,
// which no hardware prefetcher follows. `next` is the chunk's first token; beyond the end, nothing.
CK_INLINE void prefetch_rows(const float *x, size_t stride, size_t step, size_t steps, size_t width, size_t next, size_t m, size_t tokens) {
  for (size_t i = m; i < m + TILE_ROWS; i++) {
    if (next + i / steps >= tokens) return;
    const float *row = x + (next + i / steps) * stride + i % steps * step;
    for (size_t c = 0; c < width; c += CK_LANES) __builtin_prefetch(row + c, 0, 2);
  }
}

// x[r][0..<width] *= factor[r / repeat] · sign
CK_LOOP void scale_rows(float *x, size_t width, size_t rows, const float *factor, size_t repeat, float sign) {
  for (size_t r = 0; r < rows; r++, x += width) {
    float f = factor[r / repeat] * sign;
    for (size_t c = 0; c < width; c += CK_LANES) v_store(x + c, v_load(x + c) * f);
  }
}

CK_INLINE float dot(const float *a, const float *b, size_t width) {
  vf sum = v_all(0);
  for (size_t c = 0; c < width; c += CK_LANES) sum = v_load(a + c) * v_load(b + c) + sum;
  return v_sum(sum);
}

// out = x · scale · rstd, padded with zeros; returns rstd = (Σx² + 1e-6)^(−½).
CK_INLINE float unit_row(float *out, const float *x, size_t width, float scale) {
  vf squares = v_all(0);
  size_t c = 0;
  for (; c + CK_LANES <= width; c += CK_LANES) {
    vf value = v_load(x + c);
    v_store(out + c, value);
    squares = value * value + squares;
  }
  if (c < width) {
    vf value = v_load_part(x + c, width - c);
    v_store(out + c, value);
    squares = value * value + squares;
  }
  float rstd = 1.0f / sqrtf(v_sum(squares) + 1e-6f);
  for (c = 0; c < width; c += CK_LANES) v_store(out + c, v_load(out + c) * (rstd * scale));
  return rstd;
}

// dx (+)= (g − y·pull)·factor
CK_INLINE void unit_row_gradient(float *dx, const float *g, const float *y, size_t width, float pull, float factor, int accumulate) {
  for (size_t c = 0; c < width; c += CK_LANES) {
    vf result = (v_load(g + c) - v_load(y + c) * pull) * factor;
    if (c + CK_LANES <= width) {
      v_store(dx + c, accumulate ? v_load(dx + c) + result : result);
    } else {
      v_store_part(dx + c, accumulate ? v_load_part(dx + c, width - c) + result : result, width - c);
    }
  }
}

// x[c] = c < visible ? x[c]·decay[c]·sign : 0
CK_INLINE void mask_row(float *x, const float *decay, float sign, size_t visible, size_t columns) {
  for (size_t c = 0; c < columns; c += CK_LANES) {
    vi inside = v_iota() + (int32_t)c < (int32_t)visible;
    v_store(x + c, v_select(inside, v_load(x + c) * v_load(decay + c) * sign, v_all(0)));
  }
}

// As mask_row for the gradient x of a row of `weights` (weight = q·k·decay): it becomes that of q·k times `sign`, and every
// weight that decays, those of earlier tokens, adds x·weight to the row's sum, returned, and takes it from its column's.
// Those of the token itself would cancel, and drown what strong decays leave of the others.
CK_INLINE float mask_row_gradient(float *x, const float *decay, const float *weights, float *columns_sum, float sign, size_t earlier, size_t visible, size_t columns) {
  vf sum = v_all(0);
  for (size_t c = 0; c < columns; c += CK_LANES) {
    vi lane = v_iota() + (int32_t)c;
    vf gradient = v_select(lane < (int32_t)visible, v_load(x + c), v_all(0));
    vf through = v_select(lane < (int32_t)earlier, gradient * v_load(weights + c), v_all(0));
    v_store(columns_sum + c, v_load(columns_sum + c) - through);
    sum = sum + through;
    v_store(x + c, v_select(lane < (int32_t)visible, gradient * v_load(decay + c) * sign, v_all(0)));
  }
  return v_sum(sum);
}

// The inverse of pack_rows.
CK_LOOP void store_rows(float *out, size_t stride, const float *x, size_t padded, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; r++, x += padded, out += stride) {
    size_t c = 0;
    for (; c + CK_LANES <= width; c += CK_LANES) v_store(out + c, v_load(x + c));
    if (c < width) v_store_part(out + c, v_load(x + c), width - c);
  }
}

// Rows m ..< m + TILE_ROWS of x = x + C y, y = β x: the rows k0 ..< k1 of y are known; those of the tile follow each other,
// from the last when `reversed`. C's element (i, k) is c[i·cm + k·ck].
CK_INLINE void solve_tile(float *x, float *y, size_t ld, const float *c, size_t cm, size_t ck, const float *beta, size_t m, size_t k0, size_t k1, const int n, const int reversed) {
  vf sum[TILE_ROWS][TILE_VECTORS];
  x += m * ld, c += m * cm;
  for (int i = 0; i < TILE_ROWS; i++)
    for (int j = 0; j < n; j++) sum[i][j] = v_load(x + i * ld + j * CK_LANES);
  for (size_t k = k0; k < k1; k++) {
    vf right[TILE_VECTORS];
    for (int j = 0; j < n; j++) right[j] = v_load(y + k * ld + j * CK_LANES);
    for (int i = 0; i < TILE_ROWS; i++) {
      vf left = v_all(c[i * cm + k * ck]);
      for (int j = 0; j < n; j++) sum[i][j] = left * right[j] + sum[i][j];
    }
  }
  for (int step = 0; step < TILE_ROWS; step++) {
    const int i = reversed ? TILE_ROWS - 1 - step : step, later = reversed ? 0 : i + 1, end = reversed ? i : TILE_ROWS;
    for (int j = 0; j < n; j++) {
      vf known = sum[i][j] * beta[m + i];
      v_store(x + i * ld + j * CK_LANES, sum[i][j]);
      v_store(y + (m + i) * ld + j * CK_LANES, known);
      for (int l = later; l < end; l++) sum[l][j] = c[l * cm + (m + i) * ck] * known + sum[l][j];
    }
  }
}

// x = (I − C diag(β))⁻¹ x and y = β x, for `padded_rows` rows of [·, ld]; `erase` is C or, when `reversed`, its transpose.
CK_INLINE void solve(float *x, float *y, size_t ld, const float *erase, size_t columns, const float *beta, size_t padded_rows, const int reversed) {
  for (size_t j = 0; j < ld; j += TILE_VECTORS * CK_LANES) {
    const size_t vectors = smaller((ld - j) / CK_LANES, TILE_VECTORS);
    for (size_t at = 0; at < padded_rows; at += TILE_ROWS) {
      const size_t m = reversed ? padded_rows - TILE_ROWS - at : at;
      const size_t k0 = reversed ? m + TILE_ROWS : 0, k1 = reversed ? padded_rows : m;
      const size_t cm = reversed ? 1 : columns, ck = reversed ? columns : 1;
#if TILE_VECTORS == 4
      switch (vectors) {
      case 1: solve_tile(x + j, y + j, ld, erase, cm, ck, beta, m, k0, k1, 1, reversed); break;
      case 2: solve_tile(x + j, y + j, ld, erase, cm, ck, beta, m, k0, k1, 2, reversed); break;
      case 3: solve_tile(x + j, y + j, ld, erase, cm, ck, beta, m, k0, k1, 3, reversed); break;
      default: solve_tile(x + j, y + j, ld, erase, cm, ck, beta, m, k0, k1, 4, reversed); break;
      }
#else
      (void)vectors;
      solve_tile(x + j, y + j, ld, erase, cm, ck, beta, m, k0, k1, 1, reversed);
#endif
    }
  }
}

// Everything of the chunk `t0 ..< t0 + tokens` that does not depend on the state; `next` is the chunk that follows.
CK_LOOP void prepare(const blocks *b, const ck_delta_shape *s, size_t t0, size_t tokens, size_t next, const float *q, const float *k, const float *beta, const float *log_decay) {
  const size_t K = s->key_width, padded = lanes_up(K), n = s->steps, rows = n * tokens, columns = lanes_up(rows);
  const size_t padded_rows = rows_up(rows), padded_tokens = rows_up(tokens);
  for (size_t i = 0; i < rows; i++) {
    const size_t t = t0 + i / n, step = i % n;
    b->key_rstd[i] = unit_row(b->keys + i * padded, k + t * s->key_stride + step * s->key_step, K, 1.0f);
    b->beta[i] = beta[t * s->beta_stride + step * s->beta_step];
  }
  __builtin_memset(b->keys + rows * padded, 0, (padded_rows - rows) * padded * sizeof(float));
  for (size_t i = rows; i < padded_rows; i++) b->beta[i] = 0;
  for (size_t t = 0; t < tokens; t++)
    b->query_rstd[t] = unit_row(b->queries + t * padded, q + (t0 + t) * s->query_stride, K, s->scale);
  __builtin_memset(b->queries + tokens * padded, 0, (padded_tokens - tokens) * padded * sizeof(float));
  pack_transposed(b->keys_t, columns, b->keys, padded, rows, K);

  float factor[CK_DELTA_ROWS];
  for (size_t t = 0; t < CK_DELTA_ROWS; t++) factor[t] = log_decay && t < tokens ? log_decay[(t0 + t) * s->decay_stride] : 0.0f;
  for (size_t t = 0; t < tokens; t += CK_LANES) v_store(factor + t, v_exp(v_load(factor + t)));
  float product_so_far = 1.0f;
  for (size_t t = 0; t < tokens; t++) {
    float *row = b->decay + t * columns;
    for (size_t c = 0; c < columns; c += CK_LANES) {
      vf before = t ? v_load(row - columns + c) * factor[t] : v_all(0);
      v_store(row + c, v_select(before < 1.2e-38f, v_all(0), before));
    }
    for (size_t i = n * t; i < n * (t + 1); i++) row[i] = 1.0f;
    product_so_far *= factor[t];
    if (product_so_far < 1.2e-38f) product_so_far = 0.0f;
    b->from_start[t] = product_so_far;
  }
  __builtin_memcpy(b->to_end, b->decay + (tokens - 1) * columns, rows * sizeof(float));
  for (size_t i = rows; i < padded_rows; i++) b->to_end[i] = 0;
  for (size_t t = tokens; t < padded_tokens; t++) b->from_start[t] = 0;

  for (size_t m = 0; m < padded_rows; m += TILE_ROWS) {
    float *x = b->erase + m * columns;
    prefetch_rows(k, s->key_stride, s->key_step, n, K, next, m, s->tokens);
    product(x, columns, b->keys + m * padded, padded, 1, b->keys_t, columns, 0, K, lanes_up(m + TILE_ROWS) / CK_LANES, 0);
    for (size_t i = m; i < m + TILE_ROWS; i++) mask_row(x + (i - m) * columns, b->decay + i / n * columns, -1.0f, i < rows ? i : 0, columns);
  }
  for (size_t m = 0; m < padded_tokens; m += TILE_ROWS) {
    float *x = b->weights + m * columns;
    prefetch_rows(q, s->query_stride, 0, 1, K, next, m, s->tokens);
    const size_t seen = smaller(rows, n * (m + TILE_ROWS));
    product(x, columns, b->queries + m * padded, padded, 1, b->keys_t, columns, 0, K, lanes_up(seen) / CK_LANES, 0);
    for (size_t t = m; t < m + TILE_ROWS; t++) mask_row(x + (t - m) * columns, b->decay + t * columns, 1.0f, t < tokens ? n * (t + 1) : 0, columns);
  }
}

// W and U of the chunk, from the state before it.
CK_LOOP void write_rows(const blocks *b, const ck_delta_shape *s, size_t t0, size_t rows, size_t next, const float *v) {
  const size_t K = s->key_width, V = s->value_width, padded = lanes_up(V), n = s->steps, padded_rows = rows_up(rows);
  for (size_t m = 0; m < padded_rows; m += TILE_ROWS) {
    float *x = b->errors + m * padded;
    prefetch_rows(v, s->value_stride, s->value_step, n, V, next, m, s->tokens);
    product(x, padded, b->keys + m * lanes_up(K), lanes_up(K), 1, b->state, padded, 0, K, padded / CK_LANES, 0);
    for (size_t i = m; i < smaller(m + TILE_ROWS, rows); i++, x += padded) {
      const float *value = v + (t0 + i / n) * s->value_stride + i % n * s->value_step;
      const float decay = b->from_start[i / n];
      size_t c = 0;
      for (; c + CK_LANES <= V; c += CK_LANES) v_store(x + c, v_load(value + c) - v_load(x + c) * decay);
      if (c < V) v_store(x + c, v_load_part(value + c, V - c) - v_load(x + c) * decay);
    }
  }
  solve(b->errors, b->writes, padded, b->erase, lanes_up(rows), b->beta, padded_rows, 0);
}

CK_LOOP void CK_NAME(ck_delta_forward)(float *out, float *state_out, float *states, const float *q, const float *k, const float *v, const float *beta, const float *log_decay, const float *state_in, const ck_delta_shape *s, float *scratch) {
  const size_t K = s->key_width, V = s->value_width, padded = lanes_up(K), wide = lanes_up(V), vectors = wide / CK_LANES, n = s->steps;
  blocks b;
  lay_out(&b, scratch, s, 0);
  pack_rows(b.state, state_in, V, state_in ? K : 0, padded, V, wide);
  for (size_t t0 = 0; t0 < s->tokens; t0 += ck_delta_chunk(n)) {
    const size_t tokens = smaller(s->tokens - t0, ck_delta_chunk(n)), rows = n * tokens, columns = lanes_up(rows);
    if (states) {
      store_rows(states, V, b.state, wide, K, V);
      states += K * V;
    }
    const size_t next = t0 + tokens;
    prepare(&b, s, t0, tokens, next, q, k, beta, log_decay);
    write_rows(&b, s, t0, rows, next, v);
    for (size_t m = 0; m < tokens; m += TILE_ROWS) {
      product(b.part, wide, b.queries + m * padded, padded, 1, b.state, wide, 0, K, vectors, 0);
      scale_rows(b.part, wide, TILE_ROWS, b.from_start + m, 1, 1.0f);
      product(b.part, wide, b.weights + m * columns, columns, 1, b.writes, wide, 0, smaller(rows, n * (m + TILE_ROWS)), vectors, 1);
      store_rows(out + (t0 + m) * s->out_stride, s->out_stride, b.part, wide, smaller(tokens - m, TILE_ROWS), V);
    }
    scale_rows(b.state, wide, K, b.from_start + tokens - 1, K, 1.0f);
    scale_rows(b.writes, wide, rows, b.to_end, 1, 1.0f);
    for (size_t m = 0; m < K; m += TILE_ROWS)
      product(b.state + m * wide, wide, b.keys + m, 1, padded, b.writes, wide, 0, rows, vectors, 1);
  }
  store_rows(state_out, V, b.state, wide, K, V);
}

CK_LOOP void CK_NAME(ck_delta_backward)(const ck_delta_gradients *d, const float *dout, const float *dstate_out, const float *q, const float *k, const float *v, const float *beta, const float *log_decay, const float *states, const ck_delta_shape *s, float *scratch) {
  const size_t K = s->key_width, V = s->value_width, padded = lanes_up(K), wide = lanes_up(V), n = s->steps;
  const size_t key_vectors = padded / CK_LANES, vectors = wide / CK_LANES, chunk = ck_delta_chunk(n);
  blocks b;
  lay_out(&b, scratch, s, 1);
  pack_rows(b.dstate, dstate_out, V, dstate_out ? K : 0, padded, V, wide);

  for (size_t t1 = (s->tokens + chunk - 1) / chunk * chunk; t1 > 0; t1 -= chunk) {
    const size_t t0 = t1 - chunk, tokens = smaller(s->tokens - t0, chunk), rows = n * tokens, columns = lanes_up(rows);
    const size_t padded_rows = rows_up(rows), padded_tokens = rows_up(tokens);
    pack_rows(b.state, states + t0 / chunk * K * V, V, K, padded, V, wide);
    const size_t next = t0 > 0 ? t0 - chunk : s->tokens;
    prepare(&b, s, t0, tokens, next, q, k, beta, log_decay);
    write_rows(&b, s, t0, rows, next, v);
    pack_rows(b.dout, dout + t0 * s->out_stride, s->out_stride, tokens, padded_tokens, V, wide);
    pack_transposed(b.writes_t, columns, b.writes, wide, rows, V);
    pack_transposed(b.state_t, padded, b.state, wide, K, V);
    pack_transposed(b.dstate_t, padded, b.dstate, wide, K, V);

    for (size_t m = 0; m < padded_rows; m += TILE_ROWS) {
      float *x = b.dwrites + m * wide;
      product(x, wide, b.keys + m * padded, padded, 1, b.dstate, wide, 0, K, vectors, 0);
      scale_rows(x, wide, TILE_ROWS, b.to_end + m, 1, 1.0f);
      product(x, wide, b.weights + m, 1, columns, b.dout, wide, m / n, tokens, vectors, 1);
    }
    solve(b.dwrites, b.derrors, wide, b.erase, columns, b.beta, padded_rows, 1);
    for (size_t i = 0; i < rows; i++) {
      const size_t t = t0 + i / n, step = i % n;
      d->beta[t * s->beta_stride + step * s->beta_step] = dot(b.dwrites + i * wide, b.errors + i * wide, wide);
      store_rows(d->v + t * s->value_stride + step * s->value_step, 0, b.derrors + i * wide, wide, 1, V);
    }

    for (size_t c = 0; c < columns; c += CK_LANES) v_store(b.dcolumns + c, v_all(0));
    for (size_t m = 0; m < padded_tokens; m += TILE_ROWS) {
      float *x = b.dweights + m * columns;
      prefetch_rows(dout, s->out_stride, 0, 1, V, next, m, s->tokens);
      const size_t seen = smaller(rows, n * (m + TILE_ROWS));
      product(x, columns, b.dout + m * wide, wide, 1, b.writes_t, columns, 0, V, lanes_up(seen) / CK_LANES, 0);
      for (size_t t = m; t < m + TILE_ROWS; t++, x += columns)
        b.dlog[t] = mask_row_gradient(x, b.decay + t * columns, b.weights + t * columns, b.dcolumns, 1.0f, t < tokens ? n * t : 0, t < tokens ? n * (t + 1) : 0, columns);
    }
    for (size_t m = 0; m < padded_rows; m += TILE_ROWS) {
      float *x = b.derase + m * columns;
      product(x, columns, b.derrors + m * wide, wide, 1, b.writes_t, columns, 0, V, lanes_up(m + TILE_ROWS) / CK_LANES, 0);
      for (size_t i = m; i < m + TILE_ROWS; i++, x += columns)
        b.dlog[i / n] += mask_row_gradient(x, b.decay + i / n * columns, b.erase + i * columns, b.dcolumns, -1.0f, i < rows ? i / n * n : 0, i < rows ? i : 0, columns);
    }
    for (size_t m = 0; m < tokens; m += TILE_ROWS) {
      product(b.part, padded, b.dout + m * wide, wide, 1, b.state_t, padded, 0, V, key_vectors, 0);
      scale_rows(b.part, padded, TILE_ROWS, b.from_start + m, 1, 1.0f);
      for (size_t t = m; t < smaller(m + TILE_ROWS, tokens); t++) b.dlog[t] += dot(b.part + (t - m) * padded, b.queries + t * padded, padded);
      product(b.part, padded, b.dweights + m * columns, columns, 1, b.keys, padded, 0, smaller(rows, n * (m + TILE_ROWS)), key_vectors, 1);
      for (size_t t = m; t < smaller(m + TILE_ROWS, tokens); t++) {
        const float *g = b.part + (t - m) * padded, *y = b.queries + t * padded;
        unit_row_gradient(d->q + (t0 + t) * s->query_stride, g, y, K, dot(g, y, padded) / (s->scale * s->scale), s->scale * b.query_rstd[t], d->accumulate);
      }
    }
    for (size_t m = 0; m < padded_rows; m += TILE_ROWS) {
      product(b.part, padded, b.derrors + m * wide, wide, 1, b.state_t, padded, 0, V, key_vectors, 0);
      product(b.part2, padded, b.writes + m * wide, wide, 1, b.dstate_t, padded, 0, V, key_vectors, 0);
      for (size_t i = m; i < smaller(m + TILE_ROWS, rows); i++) {
        float *read = b.part + (i - m) * padded, *written = b.part2 + (i - m) * padded, *y = b.keys + i * padded;
        scale_rows(read, padded, 1, b.from_start + i / n, 1, -1.0f);
        scale_rows(written, padded, 1, b.to_end + i, 1, 1.0f);
        b.dlog[i / n] += b.dcolumns[i] + dot(read, y, padded);
        b.dcolumns[i] = dot(written, y, padded);
        for (size_t c = 0; c < padded; c += CK_LANES) v_store(read + c, v_load(read + c) + v_load(written + c));
      }
      product(b.part, padded, b.derase + m * columns, columns, 1, b.keys, padded, 0, smaller(rows, m + TILE_ROWS), key_vectors, 1);
      product(b.part, padded, b.derase + m, 1, columns, b.keys, padded, m, rows, key_vectors, 1);
      product(b.part, padded, b.dweights + m, 1, columns, b.queries, padded, m / n, tokens, key_vectors, 1);
      for (size_t i = m; i < smaller(m + TILE_ROWS, rows); i++) {
        const float *g = b.part + (i - m) * padded, *y = b.keys + i * padded;
        unit_row_gradient(d->k + (t0 + i / n) * s->key_stride + i % n * s->key_step, g, y, K, dot(g, y, padded), b.key_rstd[i], d->accumulate);
      }
    }

    if (d->log_decay) {
      // Token t's decay acts on what was there before it and is read at or after it: reads summed from the end, and for
      // the final state writes summed from the start.
      float *dlog_decay = d->log_decay + t0 * s->decay_stride;
      float written = b.from_start[tokens - 1] * dot(b.state, b.dstate, K * wide), read = 0;
      for (size_t t = 0; t < tokens; t++) {
        dlog_decay[t * s->decay_stride] = written;
        for (size_t i = n * t; i < n * (t + 1); i++) written += b.dcolumns[i];
      }
      for (size_t t = tokens; t-- > 0;) {
        read += b.dlog[t];
        dlog_decay[t * s->decay_stride] += read;
      }
    }

    scale_rows(b.dstate, wide, K, b.from_start + tokens - 1, K, 1.0f);
    scale_rows(b.dout, wide, tokens, b.from_start, 1, 1.0f);
    scale_rows(b.derrors, wide, rows, b.from_start, n, -1.0f);
    for (size_t m = 0; m < K; m += TILE_ROWS) {
      product(b.dstate + m * wide, wide, b.queries + m, 1, padded, b.dout, wide, 0, tokens, vectors, 1);
      product(b.dstate + m * wide, wide, b.keys + m, 1, padded, b.derrors, wide, 0, rows, vectors, 1);
    }
  }
  store_rows(d->state_in, V, b.dstate, wide, K, V);
}
