#pragma once
#include <stddef.h>
// The selective scan of Mamba (arXiv 2312.00752, equation 2, with B̄ = ΔB), for one stretch of one sequence:
//   Δ = softplus(dt),  h = e^{ΔA} h + Δ x B,  y = (Σ_n C_n h_n + D x) · silu(z).
// Lanes are channels, 16 of a block side by side: tables and states are [blocks][N][16], padding lanes hold zero states. Sums over n
// run upwards, sums over channels lane by lane over the blocks and then across the lanes: orders depend on sizes alone.

enum { CK_SELECTIVE_SCAN_STEPS = 16 }; ///< longest stretch of a backward call: what it recomputes stays in cache

/// Operands of a stretch; `*_row` are distances between time steps in floats.
typedef struct {
  size_t steps, channels, states;
  const float *x, *dt, *z; ///< [steps][channels]
  ptrdiff_t x_row, dt_row, z_row;
  const float *b, *c;      ///< [steps][N]
  ptrdiff_t bc_row;
  const float *decay;      ///< A · log2 e, [blocks][N][16]
  const float *skip;       ///< D, [channels]
} ck_selective_scan_stretch;

/// What the backward writes; gradients of `b` and `c` are sums over the stretch's channels.
typedef struct {
  float *dx, *ddt, *dz;
  ptrdiff_t dx_row, ddt_row, dz_row;
  float *db, *dc;
  ptrdiff_t dbc_row;
  float *d_decay;          ///< dL/dA, [blocks][N][16], added to
  float *d_skip;           ///< [channels], added to
} ck_selective_scan_gradients;

/// `h`: the state, [blocks][N][16], on entry and exit.
void ck_selective_scan_forward(const ck_selective_scan_stretch *in, float *h, float *y, ptrdiff_t y_row);
/// `h`: the state before the stretch. `g`: dL/d(state), after it on entry, before it on exit.
void ck_selective_scan_backward(
    const ck_selective_scan_stretch *in, const float *h, const float *dy, ptrdiff_t dy_row, float *g,
    const ck_selective_scan_gradients *out, float *scratch);
/// Floats of `scratch` for N states.
size_t ck_selective_scan_scratch(size_t states);
