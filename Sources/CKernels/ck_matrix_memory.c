#include "ck_matrix_memory.h"
#include "ck_vector_dispatch.h"

#define TILE_ROWS 4
#define CHUNK CK_MEMORY_CHUNK

static size_t lanes_up(size_t n) { return (n + 15) / 16 * 16; }
static size_t rows_up(size_t n) { return (n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }

// A head's state as the kernels keep it: [K rounded up to whole tiles][V rounded up to whole vectors], then n, then m.
static size_t state_floats(const ck_memory_shape *s) { return lanes_up(s->key_width) * lanes_up(s->value_width); }
static size_t slot_floats(const ck_memory_shape *s) { return state_floats(s) + lanes_up(s->key_width) + 16; }

size_t ck_memory_kept(const ck_memory_shape *s) {
  return (s->tokens + CHUNK - 1) / CHUNK * s->heads * slot_floats(s);
}

// What the gates of one head do in one chunk. With b the running sum of log-decays, c_j = log i_j − b_j and
// M_i = max(m₀, c_0 … c_i) (exponential) or −b_i, every factor is e^{c_j − M_i} ≤ 1 up to i's own scale:
//   D_ij = e^{c_j − M_i},  reach_i = e^{m₀ − M_i} (old state into row i),  write_j = e^{c_j − M_last},  keep = e^{m₀ − M_last}.
// c and M are summed in double and split in two floats: differences of large sums keep their digits. Base 2 throughout.
typedef struct {
  float c_high[CHUNK], c_low[CHUNK], m_high[CHUNK], m_low[CHUNK];
  float reach[CHUNK], write[CHUNK], floor[CHUNK];
  float keep, maximum;
  int source; // the token that M_last comes from, −1 for m₀
} chunk_gates;

#define CK_VARIANT 0
#include "ck_matrix_memory_loops.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_matrix_memory_loops.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_matrix_memory_loops.h"
#undef CK_VARIANT
#endif

// Kept beside the pointer arithmetic at the head of each function.
size_t ck_memory_scratch(const ck_memory_shape *s, int backward) {
  size_t keys = CHUNK * lanes_up(s->key_width), values = CHUNK * lanes_up(s->value_width), square = CHUNK * CHUNK;
  if (backward) return 7 * keys + 7 * values + 4 * square + 2 * state_floats(s) + s->heads * slot_floats(s) + 4 * CHUNK;
  return 3 * keys + 3 * values + 2 * square + 2 * s->heads * slot_floats(s);
}

CK_DISPATCH(void, ck_memory_forward, (const ck_memory_shape *shape, const ck_memory_inputs *in, const ck_memory_results *to, float *scratch), shape, in, to, scratch)
CK_DISPATCH(void, ck_memory_backward, (const ck_memory_shape *shape, const ck_memory_inputs *in, const ck_memory_gradients *to, float *scratch), shape, in, to, scratch)
