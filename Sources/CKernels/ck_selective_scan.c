#include "ck_selective_scan.h"
#include "ck_vector_dispatch.h"

enum { STEPS = CK_SELECTIVE_SCAN_STEPS, LANES = 16 };

// States of the stretch (one more than its steps), decays, and sums of dB and dC lane by lane.
size_t ck_selective_scan_scratch(size_t states) { return LANES * (4 * STEPS + 1) * states; }

#define CK_VARIANT 0
#include "ck_selective_scan_variant.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_selective_scan_variant.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_selective_scan_variant.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_selective_scan_forward, (const ck_selective_scan_stretch *in, float *h, float *y, ptrdiff_t y_row), in, h, y, y_row)
CK_DISPATCH(void, ck_selective_scan_backward, (const ck_selective_scan_stretch *in, const float *h, const float *dy, ptrdiff_t dy_row, float *g, const ck_selective_scan_gradients *out, float *scratch), in, h, dy, dy_row, g, out, scratch)
