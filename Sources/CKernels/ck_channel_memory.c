#include "ck_channel_memory.h"
#include "ck_vector_dispatch.h"

#define TILE_ROWS 4
#define CHUNK 64
#define BAND 16 // rows whose mutual decays are followed one by one

static size_t lanes_up(size_t n) { return (n + 15) / 16 * 16; }
static size_t rows_up(size_t n) { return (n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }
static size_t state_floats(const ck_channel_memory_shape *s) { return lanes_up(s->key_width) * lanes_up(s->value_width); }

size_t ck_channel_memory_kept(const ck_channel_memory_shape *s) {
  return (s->tokens + CHUNK - 1) / CHUNK * s->heads * state_floats(s);
}

// Decays of one head in one chunk, [CHUNK][padded K] each, and per band [K].
typedef struct {
  float *step, *opening, *closing, *reach, *write; // a_t; from the start of the chunk to t; from t to its end
  float *whole;                                    // per band; the last row is that of the chunk
} channel_decays;

#define CK_VARIANT 0
#include "ck_channel_memory_loops.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_channel_memory_loops.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_channel_memory_loops.h"
#undef CK_VARIANT
#endif

// Kept beside the pointer arithmetic at the head of each function.
size_t ck_channel_memory_scratch(const ck_channel_memory_shape *s, int backward) {
  size_t keys = CHUNK * lanes_up(s->key_width), values = CHUNK * lanes_up(s->value_width), square = CHUNK * CHUNK;
  size_t bands = (CHUNK / BAND + 1) * lanes_up(s->key_width);
  if (backward) return 17 * keys + 4 * values + 2 * square + 2 * state_floats(s) + bands + s->heads * state_floats(s);
  return 10 * keys + 2 * values + square + bands + 2 * s->heads * state_floats(s);
}

CK_DISPATCH(void, ck_channel_memory_forward, (float *out, float *state, float *kept, const ck_channel_memory_inputs *in, const ck_channel_memory_shape *shape, float *scratch), out, state, kept, in, shape, scratch)
CK_DISPATCH(void, ck_channel_memory_backward, (const ck_channel_memory_gradients *to, const ck_channel_memory_inputs *in, const ck_channel_memory_shape *shape, float *scratch), to, in, shape, scratch)
