#include "ck_delta.h"
#include "ck_vector_dispatch.h"

#include <math.h>

#define TILE_ROWS 4

static size_t lanes_up(size_t n) { return (n + 15) / 16 * 16; }
static size_t rows_up(size_t n) { return (n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }
static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// What a chunk needs at once; r rows, l tokens, rows padded to TILE_ROWS and columns to whole vectors.
typedef struct {
  float *state;                     // [K, V] S before the chunk
  float *keys, *keys_t, *queries;   // [r, K] unit, [K, r] the same, [l, K] unit times scale
  float *key_rstd, *query_rstd;     // [r], [l]
  float *beta;                      // [r]
  float *decay;                     // [l, r] e^{b_t − b_j} where token t sees row j, 0 elsewhere
  float *from_start, *to_end;       // [l] e^{b_t}, [r] e^{b_last − b_j}
  float *weights;                   // [l, r] A = Q Kᵀ ⊙ decay
  float *erase;                     // [r, r] −N = −K Kᵀ ⊙ decay, strictly lower
  float *errors, *writes;           // [r, V] W = v − S̃ᵀk, U = β W
  float *part;                      // [TILE_ROWS, max(K, V)]
  // Backward only.
  float *part2;                     // as part
  float *state_t, *dstate, *dstate_t, *writes_t; // [V, K], [K, V], [V, K], [V, r]
  float *dout, *derrors, *dwrites;  // [l, V], [r, V] dW, [r, V] dU and then that with what later rows erase
  float *dweights, *derase;         // [l, r], [r, r]: gradients of Q Kᵀ and K Kᵀ
  float *dlog, *dcolumns;           // [l], [r]: parts of the gradients of log-decays
} blocks;

// Points the blocks into `base` (null: not at all) and returns the floats they take.
static size_t lay_out(blocks *b, float *base, const ck_delta_shape *shape, int backward) {
  const size_t R = CK_DELTA_ROWS, K = lanes_up(shape->key_width), V = lanes_up(shape->value_width);
  const size_t wider = K > V ? K : V;
  size_t used = 0;
#define TAKE(field, floats) (b->field = base ? base + used : 0, used += (floats))
  TAKE(state, K * V);
  TAKE(keys, R * K), TAKE(keys_t, K * R), TAKE(queries, R * K);
  TAKE(key_rstd, R), TAKE(query_rstd, R), TAKE(beta, R), TAKE(decay, R * R), TAKE(from_start, R), TAKE(to_end, R);
  TAKE(weights, R * R), TAKE(erase, R * R), TAKE(errors, R * V), TAKE(writes, R * V), TAKE(part, TILE_ROWS * wider);
  if (backward) {
    TAKE(part2, TILE_ROWS * wider);
    TAKE(state_t, V * K), TAKE(dstate, K * V), TAKE(dstate_t, V * K), TAKE(writes_t, V * R);
    TAKE(dout, R * V), TAKE(derrors, R * V), TAKE(dwrites, R * V), TAKE(dweights, R * R), TAKE(derase, R * R), TAKE(dlog, R), TAKE(dcolumns, R);
  }
#undef TAKE
  return used;
}

size_t ck_delta_scratch(const ck_delta_shape *shape, int backward) {
  blocks b;
  return lay_out(&b, 0, shape, backward);
}

#define CK_VARIANT 0
#include "ck_delta_tiles.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_delta_tiles.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_delta_tiles.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_delta_forward, (float *out, float *state_out, float *states, const float *q, const float *k, const float *v, const float *beta, const float *log_decay, const float *state_in, const ck_delta_shape *shape, float *scratch), out, state_out, states, q, k, v, beta, log_decay, state_in, shape, scratch)
CK_DISPATCH(void, ck_delta_backward, (const ck_delta_gradients *gradients, const float *dout, const float *dstate_out, const float *q, const float *k, const float *v, const float *beta, const float *log_decay, const float *states, const ck_delta_shape *shape, float *scratch), gradients, dout, dstate_out, q, k, v, beta, log_decay, states, shape, scratch)
