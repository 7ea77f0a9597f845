// The loops of ck_state_space.h, for one variant; included by ck_state_space.c.
#include "ck_vector_variant.h"

#define feedback CK_NAME(ck_state_space_feedback)
#define step CK_NAME(ck_state_space_step)
#define forward CK_NAME(ck_state_space_forward_columns)
#define backward CK_NAME(ck_state_space_backward_columns)
#define downwards_diagonal CK_NAME(ck_state_space_downwards_diagonal)
#define downwards_rank_one CK_NAME(ck_state_space_downwards_rank_one)
#define spread CK_NAME(ck_state_space_spread)
#define add_products CK_NAME(ck_state_space_add_products)
#define load_block CK_NAME(ck_state_space_load_block)
#define fetch_block CK_NAME(ck_state_space_fetch_block)
#define store_block CK_NAME(ck_state_space_store_block)
#define step_semiseparable CK_NAME(ck_state_space_step_semiseparable)
#define downwards_semiseparable CK_NAME(ck_state_space_downwards_semiseparable)
// Row r of state n of a table, real part; the imaginary part is 16 floats further.
#define AT(table, n, r) ((table) + ((n) * K + 2 * (r)) * CK_LANES)
// Where row r of real state j stands in a semiseparable table, and its value in every lane.
#define OFFSET(j, r) (((j) * ROWS + (r)) * (CK_LANES / S))
#define COEF(r) spread(table + OFFSET(j, ROW_##r), S)
#define RE(p) v_load(p)
#define IM(p) v_load((p) + CK_LANES)

// s = Re Σ w x
CK_INLINE vf feedback(const float *table, const float *x, size_t N, const int K) {
  vf plus = {0}, minus = {0};
  for (size_t n = 0; n < N; n++) {
    const float *w = AT(table, n, 4), *at = x + n * 2 * CK_LANES;
    plus = RE(w) * RE(at) + plus;
    minus = IM(w) * IM(at) + minus;
  }
  return plus - minus;
}

// One step from `before` to `after`, which may be the same; returns Re Σ c x. `s`: this step's feedback, and then the next one's.
CK_INLINE vf step(const float *table, const float *before, float *after, vf u, vf *s, size_t N, const int K) {
  vf plus = {0}, minus = {0}, next_plus = {0}, next_minus = {0};
  for (size_t n = 0; n < N; n++) {
    const float *a = AT(table, n, 0), *b = AT(table, n, 1), *c = AT(table, n, 2), *at = before + n * 2 * CK_LANES;
    float *to = after + n * 2 * CK_LANES;
    vf re = RE(b) * u, im = IM(b) * u;
    if (K == CK_STATE_SPACE_RANK_ONE) {
      const float *f = AT(table, n, 3);
      re = RE(f) * *s + re;
      im = IM(f) * *s + im;
    }
    re = RE(a) * RE(at) + re;
    im = RE(a) * IM(at) + im;
    re = re - IM(a) * IM(at);
    im = im + IM(a) * RE(at);
    v_store(to, re);
    v_store(to + CK_LANES, im);
    plus = RE(c) * re + plus;
    minus = IM(c) * im + minus;
    if (K == CK_STATE_SPACE_RANK_ONE) {
      const float *w = AT(table, n, 4);
      next_plus = RE(w) * re + next_plus;
      next_minus = IM(w) * im + next_minus;
    }
  }
  *s = next_plus - next_minus;
  return plus - minus;
}

CK_INLINE void fetch_block(const ck_state_space_stretch *in, const float *p, const int S) {
  for (int i = 0; i < S; i++) __builtin_prefetch(p + i * in->sequence, 0, 2);
}

// The values of 16/S channels, once for each of S sequences.
CK_INLINE vf spread(const float *p, const int S) {
  typedef float v8 __attribute__((ext_vector_type(8)));
  typedef float v4 __attribute__((ext_vector_type(4)));
  if (S == 4) {
    v4 x;
    __builtin_memcpy(&x, p, sizeof x);
    return __builtin_shufflevector(x, x, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
  }
  if (S == 2) {
    v8 x;
    __builtin_memcpy(&x, p, sizeof x);
    return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
  }
  return v_load(p);
}

// Adds the products of x and y, summed over the sequences, to four neighbouring rows.
CK_INLINE void add_products(float *rows, const vf x[4], const vf y[4], const int S) {
  if (S == 1) {
    for (int i = 0; i < 4; i++) v_store(rows + i * CK_LANES, x[i] * y[i] + v_load(rows + i * CK_LANES));
    return;
  }
  // The sum of the halves of p, then that of q.
#define ADD_HALVES(p, q) \
  (__builtin_shufflevector(p, q, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) + \
   __builtin_shufflevector(p, q, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23))
  const vf p0 = x[0] * y[0], p1 = x[1] * y[1], p2 = x[2] * y[2], p3 = x[3] * y[3];
  if (S == 2) {
    v_store(rows, ADD_HALVES(p0, p1) + v_load(rows));
    v_store(rows + CK_LANES, ADD_HALVES(p2, p3) + v_load(rows + CK_LANES));
  } else {
    const vf low = ADD_HALVES(p0, p1), high = ADD_HALVES(p2, p3);
    const vf first = __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    const vf second = __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    v_store(rows, first + second + v_load(rows));
  }
#undef ADD_HALVES
}

// `lanes` channels of each sequence of a stretch, `sequence` floats apart, from `p` on; other lanes are zero.
CK_INLINE vf load_block(const ck_state_space_stretch *in, const float *p, ptrdiff_t sequence, size_t lanes, const int S) {
  if (S == 1) return v_load_lanes(p, lanes);
  float block[CK_LANES] = {0};
  for (int i = 0; i < S; i++) {
    const float *from = p + i * sequence;
    float *to = block + i * (CK_LANES / S);
    if (lanes == (size_t)(CK_LANES / S)) __builtin_memcpy(to, from, CK_LANES / S * sizeof(float));
    else __builtin_memcpy(to, from, lanes * sizeof(float));
  }
  return v_load(block);
}
CK_INLINE void store_block(const ck_state_space_stretch *in, float *p, vf v, size_t lanes, const int S) {
  if (S == 1) {
    v_store_lanes(p, v, lanes);
    return;
  }
  float block[CK_LANES];
  v_store(block, v);
  for (int i = 0; i < S; i++) {
    const float *from = block + i * (CK_LANES / S);
    float *to = p + i * in->sequence;
    if (lanes == (size_t)(CK_LANES / S)) __builtin_memcpy(to, from, CK_LANES / S * sizeof(float));
    else __builtin_memcpy(to, from, lanes * sizeof(float));
  }
}

// A step of a semiseparable transition of `count` real states; `g`: [count][16], written: g_{j−1}. Returns Σ c x.
CK_INLINE vf step_semiseparable(const float *table, const float *before, float *after, float *g, vf u, size_t count, const int S) {
  vf current = {0}, above = {0}, sum = {0};
  for (size_t j = 0; j < count; j++) {
    v_store(g + j * CK_LANES, current);
    current = COEF(l) * current + COEF(p) * v_load(before + j * CK_LANES);
  }
  for (size_t j = count; j-- > 0;) {
    const vf below = v_load(g + j * CK_LANES);
    const vf x = COEF(m) * above + (COEF(a) * v_load(before + j * CK_LANES) + (COEF(b) * u + COEF(h) * below));
    v_store(after + j * CK_LANES, x);
    sum = COEF(c) * x + sum;
    above = COEF(v) * above + current;
    current = below;
  }
  return sum;
}

CK_INLINE void forward(const ck_state_space_stretch *in, float *x, float *y, ptrdiff_t y_row, float *scratch, const int K, const int S) {
  const size_t N = in->states, width = CK_LANES / S;
  for (size_t channel = 0; channel < in->channels; channel += width) {
    const size_t lanes = in->channels - channel < width ? in->channels - channel : width;
    const float *table = in->table + channel * N * K;
    float *state = x + channel * S * N * 2;
    const vf skip = load_block(in, in->skip + channel, 0, lanes, S);
    vf s = K == CK_STATE_SPACE_RANK_ONE ? feedback(table, state, N, K) : v_all(0.0f);
    for (size_t t = 0; t < in->steps; t++) {
      const float *u_at = in->u + t * in->u_row + channel;
      float *y_at = y + t * y_row + channel;
      fetch_block(in, u_at + STEPS * in->u_row, S);
      fetch_block(in, y_at + STEPS * y_row, S);
      vf u = load_block(in, u_at, in->sequence, lanes, S);
      vf sum = K == CK_STATE_SPACE_SEMISEPARABLE ? step_semiseparable(table, state, state, scratch, u, 2 * N, S)
                                                 : step(table, state, state, u, &s, N, K);
      store_block(in, y_at, skip * u + sum, lanes, S);
    }
  }
}

// Downwards in time, with λ = dL/dx_t (complex: dL/dRe + i dL/dIm) and q = dL/ds_t:
//   λ += c̄ dy;  dc += x̄ dy;  da += λ x̄_{t−1};  db += λ u;  df += λ s;  du = Re Σ b̄ λ;  q = Re Σ f̄ λ;
//   λ ← ā λ + w̄ q;  dw += x̄_{t−1} q.
//
// Diagonal: `width` states a turn, so that λ and all sums stay in registers and the chains of the states overlap.
// `states`: of every step and the one before; `du`: [T][16], added to.
CK_INLINE void downwards_diagonal(const float *table, const float *states, const float *us, const float *slopes, float *lambda, float *d_table, float *du, size_t T, size_t N, size_t first, const int width) {
  enum { K = CK_STATE_SPACE_DIAGONAL };
  const size_t row = N * 2 * CK_LANES;
  const float *x = states + first * 2 * CK_LANES;
  vf re[2], im[2], x_re[2], x_im[2], sums[2][K];
  for (int i = 0; i < width; i++) {
    const float *at = lambda + (first + i) * 2 * CK_LANES, *last = x + T * row + i * 2 * CK_LANES;
    re[i] = RE(at), im[i] = IM(at), x_re[i] = RE(last), x_im[i] = IM(last);
    for (int k = 0; k < K; k++) sums[i][k] = v_load(AT(d_table, first + i, 0) + k * CK_LANES);
  }
  for (size_t t = T; t-- > 0;) {
    vf d = v_load(slopes + t * CK_LANES), u = v_load(us + t * CK_LANES), through = v_load(du + t * CK_LANES);
    for (int i = 0; i < width; i++) {
      const float *a = AT(table, first + i, 0), *b = AT(table, first + i, 1), *c = AT(table, first + i, 2);
      const float *past = x + t * row + i * 2 * CK_LANES;
      re[i] = RE(c) * d + re[i];
      im[i] = im[i] - IM(c) * d;
      sums[i][4] = d * x_re[i] + sums[i][4];
      sums[i][5] = sums[i][5] - d * x_im[i];
      x_re[i] = RE(past);
      x_im[i] = IM(past);
      sums[i][2] = re[i] * u + sums[i][2];
      sums[i][3] = im[i] * u + sums[i][3];
      sums[i][0] = re[i] * x_re[i] + (im[i] * x_im[i] + sums[i][0]);
      sums[i][1] = im[i] * x_re[i] + (sums[i][1] - re[i] * x_im[i]);
      through = IM(b) * im[i] + (RE(b) * re[i] + through);
      vf next = RE(a) * re[i] + IM(a) * im[i];
      im[i] = RE(a) * im[i] - IM(a) * re[i];
      re[i] = next;
    }
    v_store(du + t * CK_LANES, through);
  }
  for (int i = 0; i < width; i++) {
    v_store(lambda + (first + i) * 2 * CK_LANES, re[i]);
    v_store(lambda + ((first + i) * 2 + 1) * CK_LANES, im[i]);
    for (int k = 0; k < K; k++) v_store(AT(d_table, first + i, 0) + k * CK_LANES, sums[i][k]);
  }
}

// With a rank-one term every state of a step waits for q, so time is the outer loop of λ, all of which are kept in `lambdas`
// [T][N][2][16]; the gradients of the table then have time as the inner loop, and their sums in registers.
CK_INLINE void downwards_rank_one(const float *table, const float *states, const float *us, const float *slopes, const float *feedbacks, float *lambda, float *d_table, float *du, size_t T, size_t N, float *lambdas) {
  enum { K = CK_STATE_SPACE_RANK_ONE };
  const size_t row = N * 2 * CK_LANES;
  float qs[STEPS * CK_LANES];
  vf q = {0};
  for (size_t t = T; t-- > 0;) {
    float *now = lambdas + t * row;
    const float *later = now + row;
    const vf d = v_load(slopes + t * CK_LANES);
    vf through_re = {0}, through_im = {0}, q_re = {0}, q_im = {0};
    for (size_t n = 0; n < N; n++) {
      const float *a = AT(table, n, 0), *b = AT(table, n, 1), *c = AT(table, n, 2), *f = AT(table, n, 3), *w = AT(table, n, 4);
      const float *at = (t + 1 < T ? later : lambda) + n * 2 * CK_LANES;
      vf re = RE(at), im = IM(at);
      if (t + 1 < T) {
        const vf next = RE(w) * q + (RE(a) * re + IM(a) * im);
        im = RE(a) * im - IM(a) * re - IM(w) * q;
        re = next;
      }
      re = RE(c) * d + re;
      im = im - IM(c) * d;
      v_store(now + n * 2 * CK_LANES, re);
      v_store(now + (n * 2 + 1) * CK_LANES, im);
      through_re = RE(b) * re + through_re;
      through_im = IM(b) * im + through_im;
      q_re = RE(f) * re + q_re;
      q_im = IM(f) * im + q_im;
    }
    q = q_re + q_im;
    v_store(qs + t * CK_LANES, q);
    v_store(du + t * CK_LANES, through_re + through_im);
  }
  for (size_t n = 0; n < N; n++) {
    const float *a = AT(table, n, 0), *w = AT(table, n, 4), *x = states + n * 2 * CK_LANES, *own = lambdas + n * 2 * CK_LANES;
    float *sums = AT(d_table, n, 0), *at = lambda + n * 2 * CK_LANES;
    vf x_re = RE(x + T * row), x_im = IM(x + T * row), sum[K];
    for (int k = 0; k < K; k++) sum[k] = v_load(sums + k * CK_LANES);
    for (size_t t = T; t-- > 0;) {
      const vf d = v_load(slopes + t * CK_LANES), u = v_load(us + t * CK_LANES), s = v_load(feedbacks + t * CK_LANES);
      const vf through = v_load(qs + t * CK_LANES), re = RE(own + t * row), im = IM(own + t * row);
      sum[4] = d * x_re + sum[4];
      sum[5] = sum[5] - d * x_im;
      x_re = RE(x + t * row);
      x_im = IM(x + t * row);
      sum[0] = re * x_re + (im * x_im + sum[0]);
      sum[1] = im * x_re + (sum[1] - re * x_im);
      sum[2] = re * u + sum[2];
      sum[3] = im * u + sum[3];
      sum[6] = re * s + sum[6];
      sum[7] = im * s + sum[7];
      sum[8] = through * x_re + sum[8];
      sum[9] = sum[9] - through * x_im;
    }
    for (int k = 0; k < K; k++) v_store(sums + k * CK_LANES, sum[k]);
    const vf re = RE(own), im = IM(own);
    v_store(at, RE(w) * q + (RE(a) * re + IM(a) * im));
    v_store(at + CK_LANES, RE(a) * im - IM(a) * re - IM(w) * q);
  }
}

// With a semiseparable transition, once upwards and once downwards through the states of a step. With γ = dL/dg, ω = dL/dw:
//   ω_{j+1} = m λ_j + v ω_j;  dm += λ w_{j+1};  dv += ω w_{j+1};  γ_j = ω_j + h_{j+1} λ_{j+1} + l_{j+1} γ_{j+1};
//   dh += λ g_{j−1};  dl += γ g_{j−1};  dp += γ x̃;  λ ← a λ + p γ, where x̃ is x before the step.
CK_INLINE void downwards_semiseparable(const float *table, const float *states, const float *us, const float *slopes, float *lambda, float *d_table, float *du, size_t T, size_t count, float *g, float *omegas, const int S) {
  const size_t row = count * CK_LANES;
  for (size_t t = T; t-- > 0;) {
    const float *before = states + t * row, *after = before + row;
    const vf d = v_load(slopes + t * CK_LANES), u = v_load(us + t * CK_LANES);
    vf through = {0}, current = {0}, omega = {0};
    for (size_t j = 0; j < count; j++) {
      const vf x = v_load(before + j * CK_LANES), l = COEF(c) * d + v_load(lambda + j * CK_LANES);
      v_store(lambda + j * CK_LANES, l);
      v_store(omegas + j * CK_LANES, omega);
      v_store(g + j * CK_LANES, current);
      add_products(d_table + OFFSET(j, ROW_a), (vf[]){l, l, d, l}, (vf[]){x, u, v_load(after + j * CK_LANES), current}, S);
      through = COEF(b) * l + through;
      omega = COEF(v) * omega + COEF(m) * l;
      current = COEF(l) * current + COEF(p) * x;
    }
    v_store(du + t * CK_LANES, through);
    vf above = {0}, from_above = {0};
    for (size_t j = count; j-- > 0;) {
      const vf l = v_load(lambda + j * CK_LANES), own = v_load(omegas + j * CK_LANES), gamma = own + from_above;
      const vf x = v_load(before + j * CK_LANES), below = v_load(g + j * CK_LANES);
      add_products(d_table + OFFSET(j, ROW_p), (vf[]){gamma, gamma, own, l}, (vf[]){x, below, above, above}, S);
      above = COEF(v) * above + current;
      current = below;
      from_above = COEF(l) * gamma + COEF(h) * l;
      v_store(lambda + j * CK_LANES, COEF(p) * gamma + COEF(a) * l);
    }
  }
}

CK_INLINE void backward(
    const ck_state_space_stretch *in, const float *x, const float *dy, ptrdiff_t dy_row, float *g, float *du,
    ptrdiff_t du_row, float *d_table, float *d_skip, float *scratch, const int K, const int S) {
  const size_t N = in->states, T = in->steps, row = N * 2 * CK_LANES, width = CK_LANES / S;
  float *g_row = scratch + (STEPS + 1) * row, *omegas = g_row + row;
  float us[STEPS * CK_LANES], feedbacks[STEPS * CK_LANES], slopes[STEPS * CK_LANES], sums[STEPS * CK_LANES];
  for (size_t channel = 0; channel < in->channels; channel += width) {
    const size_t lanes = in->channels - channel < width ? in->channels - channel : width;
    const float *table = in->table + channel * N * K;
    float *lambda = g + channel * S * N * 2, *d_block = d_table + channel * N * K;
    __builtin_memcpy(scratch, x + channel * S * N * 2, row * sizeof(float));
    vf s = K == CK_STATE_SPACE_RANK_ONE ? feedback(table, scratch, N, K) : v_all(0.0f);
    for (size_t t = 0; t < T; t++) {
      const float *u_at = in->u + t * in->u_row + channel, *dy_at = dy + t * dy_row + channel;
      fetch_block(in, u_at - STEPS * in->u_row, S);
      fetch_block(in, dy_at - STEPS * dy_row, S);
      vf u = load_block(in, u_at, in->sequence, lanes, S);
      v_store(us + t * CK_LANES, u);
      v_store(feedbacks + t * CK_LANES, s);
      if (K == CK_STATE_SPACE_SEMISEPARABLE)
        step_semiseparable(table, scratch + t * row, scratch + (t + 1) * row, g_row, u, 2 * N, S);
      else step(table, scratch + t * row, scratch + (t + 1) * row, u, &s, N, K);
      v_store(slopes + t * CK_LANES, load_block(in, dy_at, in->sequence, lanes, S));
    }
    if (K == CK_STATE_SPACE_DIAGONAL) {
      __builtin_memset(sums, 0, sizeof sums);
      size_t n = 0;
      for (; n + 2 <= N; n += 2) downwards_diagonal(table, scratch, us, slopes, lambda, d_block, sums, T, N, n, 2);
      if (n < N) downwards_diagonal(table, scratch, us, slopes, lambda, d_block, sums, T, N, n, 1);
    } else if (K == CK_STATE_SPACE_RANK_ONE)
      downwards_rank_one(table, scratch, us, slopes, feedbacks, lambda, d_block, sums, T, N, g_row);
    else downwards_semiseparable(table, scratch, us, slopes, lambda, d_block, sums, T, 2 * N, g_row, omegas, S);

    const vf skip = load_block(in, in->skip + channel, 0, lanes, S);
    vf d_skip_sum = v_load(d_skip + channel * S);
    for (size_t t = T; t-- > 0;) {
      float *du_at = du + t * du_row + channel;
      fetch_block(in, du_at - STEPS * du_row, S);
      vf d = v_load(slopes + t * CK_LANES);
      store_block(in, du_at, skip * d + v_load(sums + t * CK_LANES), lanes, S);
      d_skip_sum = d * v_load(us + t * CK_LANES) + d_skip_sum;
    }
    v_store(d_skip + channel * S, d_skip_sum);
  }
}

#define FORWARD(K, S) forward(in, x, y, y_row, scratch, K, S)
CK_LOOP void CK_NAME(ck_state_space_forward)(const ck_state_space_stretch *in, float *x, float *y, ptrdiff_t y_row, float *scratch) {
  if (in->columns == CK_STATE_SPACE_DIAGONAL) FORWARD(CK_STATE_SPACE_DIAGONAL, 1);
  else if (in->columns == CK_STATE_SPACE_RANK_ONE) FORWARD(CK_STATE_SPACE_RANK_ONE, 1);
  else if (in->sequences == 4) FORWARD(CK_STATE_SPACE_SEMISEPARABLE, 4);
  else if (in->sequences == 2) FORWARD(CK_STATE_SPACE_SEMISEPARABLE, 2);
  else FORWARD(CK_STATE_SPACE_SEMISEPARABLE, 1);
}

#define BACKWARD(K, S) backward(in, x, dy, dy_row, g, du, du_row, d_table, d_skip, scratch, K, S)
CK_LOOP void CK_NAME(ck_state_space_backward)(
    const ck_state_space_stretch *in, const float *x, const float *dy, ptrdiff_t dy_row, float *g, float *du,
    ptrdiff_t du_row, float *d_table, float *d_skip, float *scratch) {
  if (in->columns == CK_STATE_SPACE_DIAGONAL) BACKWARD(CK_STATE_SPACE_DIAGONAL, 1);
  else if (in->columns == CK_STATE_SPACE_RANK_ONE) BACKWARD(CK_STATE_SPACE_RANK_ONE, 1);
  else if (in->sequences == 4) BACKWARD(CK_STATE_SPACE_SEMISEPARABLE, 4);
  else if (in->sequences == 2) BACKWARD(CK_STATE_SPACE_SEMISEPARABLE, 2);
  else BACKWARD(CK_STATE_SPACE_SEMISEPARABLE, 1);
}

CK_LOOP void CK_NAME(ck_complex_scan_forward)(const float *a, const float *b, float *state, float *x, size_t steps, size_t lanes, ptrdiff_t plane, ptrdiff_t row) {
  for (size_t lane = 0; lane < lanes; lane += CK_LANES) {
    const size_t n = lanes - lane < CK_LANES ? lanes - lane : CK_LANES;
    const vf a_re = v_load_lanes(a + lane, n), a_im = v_load_lanes(a + plane + lane, n);
    vf re = v_load_lanes(state + lane, n), im = v_load_lanes(state + plane + lane, n);
    for (size_t t = 0; t < steps; t++) {
      const float *in = b + t * row + lane;
      float *out = x + t * row + lane;
      vf next = a_re * re + (v_load_lanes(in, n) - a_im * im);
      im = a_re * im + (v_load_lanes(in + plane, n) + a_im * re);
      re = next;
      v_store_lanes(out, re, n);
      v_store_lanes(out + plane, im, n);
    }
    v_store_lanes(state + lane, re, n);
    v_store_lanes(state + plane + lane, im, n);
  }
}

CK_LOOP void CK_NAME(ck_complex_scan_backward)(const float *a, const float *x, const float *state, const float *dx, float *g, float *db, float *da, size_t steps, size_t lanes, ptrdiff_t plane, ptrdiff_t row) {
  for (size_t lane = 0; lane < lanes; lane += CK_LANES) {
    const size_t n = lanes - lane < CK_LANES ? lanes - lane : CK_LANES;
    const vf a_re = v_load_lanes(a + lane, n), a_im = v_load_lanes(a + plane + lane, n);
    vf re = v_load_lanes(g + lane, n), im = v_load_lanes(g + plane + lane, n);
    vf da_re = v_load_lanes(da + lane, n), da_im = v_load_lanes(da + plane + lane, n);
    for (size_t t = steps; t-- > 0;) {
      const float *in = dx + t * row + lane, *past = t ? x + (t - 1) * row + lane : state + lane;
      float *out = db + t * row + lane;
      re = re + v_load_lanes(in, n);
      im = im + v_load_lanes(in + plane, n);
      v_store_lanes(out, re, n);
      v_store_lanes(out + plane, im, n);
      vf x_re = v_load_lanes(past, n), x_im = v_load_lanes(past + plane, n);
      da_re = re * x_re + (im * x_im + da_re);
      da_im = im * x_re + (da_im - re * x_im);
      vf next = a_re * re + a_im * im;
      im = a_re * im - a_im * re;
      re = next;
    }
    v_store_lanes(g + lane, re, n);
    v_store_lanes(g + plane + lane, im, n);
    v_store_lanes(da + lane, da_re, n);
    v_store_lanes(da + plane + lane, da_im, n);
  }
}

#undef feedback
#undef step
#undef forward
#undef backward
#undef downwards_diagonal
#undef downwards_rank_one
#undef spread
#undef add_products
#undef load_block
#undef fetch_block
#undef store_block
#undef step_semiseparable
#undef downwards_semiseparable
#undef AT
#undef OFFSET
#undef COEF
#undef RE
#undef IM
#undef FORWARD
#undef BACKWARD
