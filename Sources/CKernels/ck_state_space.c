#include "ck_state_space.h"
#include "ck_vector_dispatch.h"

enum { STEPS = CK_STATE_SPACE_STEPS };
// Rows of a semiseparable table: in four stand what the upward sweep of a backward pass adds to, in four the downward one.
enum { ROW_a, ROW_b, ROW_c, ROW_h, ROW_p, ROW_l, ROW_v, ROW_m, ROWS };

// States of the stretch, one more than its steps; then λ of every step, or g and dL/dw of one.
size_t ck_state_space_scratch(size_t states) { return (2 * STEPS + 1) * states * 32; }

#define CK_VARIANT 0
#include "ck_state_space_variant.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_state_space_variant.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_state_space_variant.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_state_space_forward, (const ck_state_space_stretch *in, float *x, float *y, ptrdiff_t y_row, float *scratch), in, x, y, y_row, scratch)
CK_DISPATCH(void, ck_state_space_backward, (const ck_state_space_stretch *in, const float *x, const float *dy, ptrdiff_t dy_row, float *g, float *du, ptrdiff_t du_row, float *d_table, float *d_skip, float *scratch), in, x, dy, dy_row, g, du, du_row, d_table, d_skip, scratch)
CK_DISPATCH(void, ck_complex_scan_forward, (const float *a, const float *b, float *state, float *x, size_t steps, size_t lanes, ptrdiff_t plane, ptrdiff_t row), a, b, state, x, steps, lanes, plane, row)
CK_DISPATCH(void, ck_complex_scan_backward, (const float *a, const float *x, const float *state, const float *dx, float *g, float *db, float *da, size_t steps, size_t lanes, ptrdiff_t plane, ptrdiff_t row), a, x, state, dx, g, db, da, steps, lanes, plane, row)
