#include "ck_attention.h"
#include "ck_vector_dispatch.h"

#define ROW_BLOCK 64
#define KEY_BLOCK 64
#define TILE_ROWS 4
#define LOG2E 1.44269504f
#define LN2 0.693147181f

typedef struct { size_t begin, end; } span;

static size_t lanes_up(size_t n) { return (n + 15) / 16 * 16; }
static size_t rows_up(size_t n) { return (n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }
static size_t padded_width(size_t d) { return lanes_up(d); }

// Interval of visible keys of every row; padding rows see nothing.
static void visible_keys(int32_t *begin, int32_t *end, const ck_attention_shape *s, size_t padded_rows) {
  for (size_t r = 0; r < padded_rows; r++) {
    if (r >= s->group * s->tokens) {
      begin[r] = end[r] = 0;
      continue;
    }
    if (s->visible) {
      begin[r] = 0;
      end[r] = s->visible[r % s->tokens];
      continue;
    }
    size_t position = s->past + r % s->tokens, last = s->keys, first = 0;
    if (s->causal && position + 1 < last) last = position + 1;
    if (s->window) {
      if (position + 1 > s->window) first = position + 1 - s->window;
      if (position + s->window < last) last = position + s->window;
    }
    begin[r] = (int32_t)first;
    end[r] = first < last ? (int32_t)last : (int32_t)first;
  }
}

static span row_span(int32_t begin, int32_t end, size_t j0) {
  int64_t low = (int64_t)begin - (int64_t)j0, high = (int64_t)end - (int64_t)j0;
  low = low < 0 ? 0 : low > KEY_BLOCK ? KEY_BLOCK : low;
  high = high < 0 ? 0 : high > KEY_BLOCK ? KEY_BLOCK : high;
  return (span){(size_t)low, (size_t)(high < low ? low : high)};
}
// Smallest interval of the key block that holds what any of TILE_ROWS rows sees.
static span group_span(const int32_t *begin, const int32_t *end, size_t j0) {
  span all = {KEY_BLOCK, 0};
  for (int r = 0; r < TILE_ROWS; r++) {
    span own = row_span(begin[r], end[r], j0);
    if (own.begin >= own.end) continue;
    if (own.begin < all.begin) all.begin = own.begin;
    if (own.end > all.end) all.end = own.end;
  }
  return all;
}
static int any_visible(const int32_t *begin, const int32_t *end, size_t count, size_t j0) {
  int any = 0;
  for (size_t r = 0; r < count; r++) any |= (begin[r] < (int32_t)(j0 + KEY_BLOCK)) & (end[r] > (int32_t)j0) & (begin[r] < end[r]);
  return any;
}
// Smallest interval of rows that holds all that see a key of key ..< key + TILE_ROWS.
static span rows_seeing(const int32_t *begin, const int32_t *end, size_t count, size_t key) {
  size_t first = 0, last = count;
  while (first < last && !(begin[first] < (int32_t)(key + TILE_ROWS) && end[first] > (int32_t)key)) first++;
  while (last > first && !(begin[last - 1] < (int32_t)(key + TILE_ROWS) && end[last - 1] > (int32_t)key)) last--;
  return (span){first, last};
}

#define CK_VARIANT 0
#include "ck_attention_tiles.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_attention_tiles.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_attention_tiles.h"
#undef CK_VARIANT
#endif

// Kept beside the pointer arithmetic at the head of each function.
size_t ck_attention_scratch(const ck_attention_shape *s, int backward) {
  size_t padded = padded_width(s->width), rows = rows_up(s->group * s->tokens), block = padded * KEY_BLOCK;
  if (backward) return 3 * rows * padded + 5 * block + 2 * ROW_BLOCK * KEY_BLOCK + 4 * rows;
  return rows * (2 * padded + 16) + lanes_up(rows) + 2 * block + ROW_BLOCK * KEY_BLOCK + 2 * rows;
}

CK_DISPATCH(void, ck_attention_forward, (float *out, float *lse, const float *q, const float *k, const float *v, const float *sink, const ck_attention_shape *shape, float *scratch), out, lse, q, k, v, sink, shape, scratch)
CK_DISPATCH(void, ck_attention_backward, (float *dq, float *dk, float *dv, float *delta, const float *dout, const float *out, const float *lse, const float *q, const float *k, const float *v, const ck_attention_shape *shape, float *scratch), dq, dk, dv, delta, dout, out, lse, q, k, v, shape, scratch)
