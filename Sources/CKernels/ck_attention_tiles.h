// Attention for one instruction-set variant; included by ck_attention.c. See include/ck_attention.h for the mathematics.
//
// Ladder: blocks of 64 rows × 64 keys keep the operands of each product in L1. Keys are the outer loop, so every key block is
// transposed once and the scratch does not grow with the number of keys. All five products are one micro-kernel that
// broadcasts elements of A (any strides, hence also Aᵀ) against rows of B. Masks are one interval of visible keys per
// row; row groups skip the columns that none of their rows see, so that the causal triangle costs about half a square.
// Tried without gain: blocks of 128 keys, tiles of 6 × 4 vectors, and for single queries values read in place with
// prefetching of the next keys.
#include "ck_small_matrix.h"

CK_LOOP void CK_NAME(ck_attention_forward)(float *out, float *lse, const float *q, const float *k, const float *v, const float *sink, const ck_attention_shape *shape, float *scratch) {
  const size_t d = shape->width, padded = padded_width(d), vectors = padded / CK_LANES, tokens = shape->tokens;
  const size_t rows = shape->group * tokens, padded_rows = rows_up(rows), state = padded + CK_LANES;
  const float scale2 = shape->scale * LOG2E; // scores, maxima and exponentials are to base 2
  float *queries = scratch, *sums = queries + padded_rows * padded, *maxima = sums + padded_rows * state;
  float *keys = maxima + lanes_up(padded_rows), *values = keys + padded * KEY_BLOCK, *scores = values + padded * KEY_BLOCK;
  int32_t *begin = (int32_t *)(scores + ROW_BLOCK * KEY_BLOCK), *end = begin + padded_rows;

  visible_keys(begin, end, shape, padded_rows);
  for (size_t g = 0; g < shape->group; g++)
    pack_rows(queries + g * tokens * padded, q + g * d, shape->q_stride, tokens, tokens, d, padded);
  __builtin_memset(queries + rows * padded, 0, (padded_rows - rows) * padded * sizeof(float));
  // A row's state: weighted values, then 16 partial sums of the weights.
  __builtin_memset(sums, 0, padded_rows * state * sizeof(float));
  for (size_t r = 0; r < lanes_up(padded_rows); r++) maxima[r] = -__builtin_inff();
  if (sink)
    for (size_t r = 0; r < rows; r++) {
      maxima[r] = sink[r / tokens] * LOG2E;
      sums[r * state + padded] = 1.0f;
    }

  for (size_t j0 = 0; j0 < shape->keys; j0 += KEY_BLOCK) {
    size_t present = shape->keys - j0 < KEY_BLOCK ? shape->keys - j0 : KEY_BLOCK;
    int packed = 0;
    for (size_t i0 = 0; i0 < padded_rows; i0 += ROW_BLOCK) {
      size_t count = padded_rows - i0 < ROW_BLOCK ? padded_rows - i0 : ROW_BLOCK;
      if (!any_visible(begin + i0, end + i0, count, j0)) continue;
      if (!packed) {
        pack_transposed(keys, KEY_BLOCK, k + j0 * shape->k_stride, shape->k_stride, present, d);
        pack_rows(values, v + j0 * shape->v_stride, shape->v_stride, present, present, d, padded);
        packed = 1;
      }
      for (size_t m = 0; m < count; m += TILE_ROWS) {
        span seen = group_span(begin + i0 + m, end + i0 + m, j0);
        if (seen.begin >= seen.end) continue;
        size_t first = seen.begin / CK_LANES * CK_LANES, last = lanes_up(seen.end);
        float *tile_scores = scores + m * KEY_BLOCK;
        product(tile_scores + first, KEY_BLOCK, queries + (i0 + m) * padded, padded, 1, keys + first, KEY_BLOCK, 0, d, (last - first) / CK_LANES, 0);
        for (size_t r = m; r < m + TILE_ROWS; r++) {
          float *x = scores + r * KEY_BLOCK, *row = sums + (i0 + r) * state;
          span own = row_span(begin[i0 + r], end[i0 + r], j0);
          int whole = own.begin <= first && own.end >= last;
          vf highest = v_all(-__builtin_inff());
          for (size_t c = first; c < last; c += CK_LANES) {
            vf score = v_load(x + c) * scale2;
            if (!whole) {
              vi lane = v_iota() + (int32_t)c;
              score = v_select((lane >= (int32_t)own.begin) & (lane < (int32_t)own.end), score, v_all(-__builtin_inff()));
            }
            v_store(x + c, score);
            highest = v_max(score, highest);
          }
          float top = v_maximum(highest), before = maxima[i0 + r];
          if (top > before) {
            float shrink = before == -__builtin_inff() ? 0.0f : v_exp2_flush(v_all(before - top))[0];
            for (size_t c = 0; c < state; c += CK_LANES) v_store(row + c, v_load(row + c) * shrink);
            maxima[i0 + r] = top;
          } else {
            top = before == -__builtin_inff() ? 0.0f : before; // nothing but −∞ so far: weights of 0, not NaN
          }
          vf weights = v_load(row + padded);
          for (size_t c = first; c < last; c += CK_LANES) {
            vf p = v_exp2_flush(v_load(x + c) - top);
            v_store(x + c, p);
            weights = weights + p;
          }
          v_store(row + padded, weights);
        }
        product(sums + (i0 + m) * state, state, tile_scores, KEY_BLOCK, 1, values, padded, seen.begin, seen.end, vectors, 1);
      }
    }
  }

  for (size_t r = 0; r < rows; r++) {
    const float *row = sums + r * state;
    float *o = out + r / tokens * d + r % tokens * shape->out_stride;
    float weight = v_sum(v_load(row + padded)), factor = weight == 0.0f ? 0.0f : 1.0f / weight;
    lse[r] = weight == 0.0f ? -__builtin_inff() : (maxima[r] + (float)__builtin_log2(weight)) * LN2;
    size_t c = 0;
    for (; c + CK_LANES <= d; c += CK_LANES) v_store(o + c, v_load(row + c) * factor);
    if (c < d) v_store_part(o + c, v_load(row + c) * factor, d - c);
  }
}

CK_LOOP void CK_NAME(ck_attention_backward)(float *dq, float *dk, float *dv, float *delta, const float *dout, const float *out, const float *lse, const float *q, const float *k, const float *v, const ck_attention_shape *shape, float *scratch) {
  const size_t d = shape->width, padded = padded_width(d), vectors = padded / CK_LANES, tokens = shape->tokens;
  const size_t rows = shape->group * tokens, padded_rows = rows_up(rows);
  const float scale2 = shape->scale * LOG2E;
  float *queries = scratch, *upstream = queries + padded_rows * padded, *query_gradient = upstream + padded_rows * padded;
  float *keys_t = query_gradient + padded_rows * padded, *values_t = keys_t + padded * KEY_BLOCK, *keys = values_t + padded * KEY_BLOCK;
  float *key_gradient = keys + padded * KEY_BLOCK, *value_gradient = key_gradient + padded * KEY_BLOCK;
  float *weights = value_gradient + padded * KEY_BLOCK, *slopes = weights + ROW_BLOCK * KEY_BLOCK;
  float *log_sums = slopes + ROW_BLOCK * KEY_BLOCK, *deltas = log_sums + padded_rows;
  int32_t *begin = (int32_t *)(deltas + padded_rows), *end = begin + padded_rows;

  visible_keys(begin, end, shape, padded_rows);
  for (size_t g = 0; g < shape->group; g++) {
    pack_rows(queries + g * tokens * padded, q + g * d, shape->q_stride, tokens, tokens, d, padded);
    pack_rows(upstream + g * tokens * padded, dout + g * d, shape->out_stride, tokens, tokens, d, padded);
  }
  __builtin_memset(queries + rows * padded, 0, (padded_rows - rows) * padded * sizeof(float));
  __builtin_memset(upstream + rows * padded, 0, (padded_rows - rows) * padded * sizeof(float));
  __builtin_memset(query_gradient, 0, padded_rows * padded * sizeof(float));
  for (size_t r = 0; r < padded_rows; r++) {
    log_sums[r] = deltas[r] = 0;
    if (r >= rows) continue;
    const float *o = out + r / tokens * d + r % tokens * shape->out_stride, *g = upstream + r * padded;
    vf dot = {0};
    size_t c = 0;
    for (; c + CK_LANES <= d; c += CK_LANES) dot = v_load(o + c) * v_load(g + c) + dot;
    if (c < d) dot = v_load_part(o + c, d - c) * v_load(g + c) + dot;
    delta[r] = deltas[r] = v_sum(dot);
    log_sums[r] = lse[r] * LOG2E;
  }

  for (size_t j0 = 0; j0 < shape->keys; j0 += KEY_BLOCK) {
    size_t present = shape->keys - j0 < KEY_BLOCK ? shape->keys - j0 : KEY_BLOCK;
    int packed = 0;
    __builtin_memset(key_gradient, 0, 2 * padded * KEY_BLOCK * sizeof(float)); // and value_gradient behind it
    for (size_t i0 = 0; i0 < padded_rows; i0 += ROW_BLOCK) {
      size_t count = padded_rows - i0 < ROW_BLOCK ? padded_rows - i0 : ROW_BLOCK;
      if (!any_visible(begin + i0, end + i0, count, j0)) continue;
      if (!packed) {
        pack_transposed(keys_t, KEY_BLOCK, k + j0 * shape->k_stride, shape->k_stride, present, d);
        pack_transposed(values_t, KEY_BLOCK, v + j0 * shape->v_stride, shape->v_stride, present, d);
        pack_rows(keys, k + j0 * shape->k_stride, shape->k_stride, present, KEY_BLOCK, d, padded);
        packed = 1;
      }
      for (size_t m = 0; m < count; m += TILE_ROWS) {
        span seen = group_span(begin + i0 + m, end + i0 + m, j0);
        float *p = weights + m * KEY_BLOCK, *s = slopes + m * KEY_BLOCK;
        if (seen.begin >= seen.end) {
          __builtin_memset(p, 0, TILE_ROWS * KEY_BLOCK * sizeof(float));
          __builtin_memset(s, 0, TILE_ROWS * KEY_BLOCK * sizeof(float));
          continue;
        }
        size_t first = seen.begin / CK_LANES * CK_LANES, last = lanes_up(seen.end), used = (last - first) / CK_LANES;
        product(p + first, KEY_BLOCK, queries + (i0 + m) * padded, padded, 1, keys_t + first, KEY_BLOCK, 0, d, used, 0);
        product(s + first, KEY_BLOCK, upstream + (i0 + m) * padded, padded, 1, values_t + first, KEY_BLOCK, 0, d, used, 0);
        for (size_t r = m; r < m + TILE_ROWS; r++) {
          p = weights + r * KEY_BLOCK;
          s = slopes + r * KEY_BLOCK;
          span own = row_span(begin[i0 + r], end[i0 + r], j0);
          float log_sum = log_sums[i0 + r], d_row = deltas[i0 + r];
          if (own.begin <= first && own.end >= last) {
            for (size_t c = first; c < last; c += CK_LANES) {
              vf weight = v_exp2_flush(v_load(p + c) * scale2 - log_sum);
              v_store(p + c, weight);
              v_store(s + c, weight * ((v_load(s + c) - d_row) * shape->scale));
            }
          } else {
            for (size_t c = first; c < last; c += CK_LANES) {
              vi lane = v_iota() + (int32_t)c, inside = (lane >= (int32_t)own.begin) & (lane < (int32_t)own.end);
              vf weight = v_exp2_flush(v_load(p + c) * scale2 - log_sum);
              v_store(p + c, v_select(inside, weight, v_all(0)));
              v_store(s + c, v_select(inside, weight * ((v_load(s + c) - d_row) * shape->scale), v_all(0)));
            }
          }
          for (size_t c = 0; c < KEY_BLOCK; c += CK_LANES)
            if (c < first || c >= last) {
              v_store(p + c, v_all(0));
              v_store(s + c, v_all(0));
            }
        }
        product(query_gradient + (i0 + m) * padded, padded, slopes + m * KEY_BLOCK, KEY_BLOCK, 1, keys, padded, seen.begin, seen.end, vectors, 1);
      }
      for (size_t n = 0; n < present; n += TILE_ROWS) { // the products with Pᵀ: rows n ..< n + TILE_ROWS are keys
        span seeing = rows_seeing(begin + i0, end + i0, count, j0 + n);
        if (seeing.begin >= seeing.end) continue;
        product(value_gradient + n * padded, padded, weights + n, 1, KEY_BLOCK, upstream + i0 * padded, padded, seeing.begin, seeing.end, vectors, 1);
        product(key_gradient + n * padded, padded, slopes + n, 1, KEY_BLOCK, queries + i0 * padded, padded, seeing.begin, seeing.end, vectors, 1);
      }
    }
    for (size_t r = 0; r < present; r++) {
      __builtin_memcpy(dk + (j0 + r) * shape->k_stride, key_gradient + r * padded, d * sizeof(float));
      __builtin_memcpy(dv + (j0 + r) * shape->v_stride, value_gradient + r * padded, d * sizeof(float));
    }
  }
  for (size_t r = 0; r < rows; r++)
    __builtin_memcpy(dq + r / tokens * d + r % tokens * shape->q_stride, query_gradient + r * padded, d * sizeof(float));
}
#undef TILE_VECTORS
