#pragma once
#include <stddef.h>
// Time-invariant state spaces with complex states.

// --- One state space of N complex states per channel, its transition diagonal or diagonal plus rank one:
//   s = Re Σ_n w_n x_n,  x ← a x + b u + f s,  y = Re Σ_n c_n x_n + D u.
// Lanes are channels, 16 of a block side by side. States are [blocks][N][2][16] (real, imaginary). Tables are
// [blocks][N][K][16] with rows a, b, c and, with rank one, f, w, each real, imaginary: K = 6 or 10. Padding lanes are zero.
// Sums over n run upwards, real and imaginary parts apart; sums over time run downwards.
//
// Semiseparable transitions (K = 16) have 2N real states j, which stand where the others have real and imaginary parts:
//   g_j = p_j x_j + l_j g_{j−1} upwards,  x_j ← a_j x_j + b_j u + h_j g_{j−1} + m_j w_{j+1},  w_j = g_j + v_j w_{j+1} downwards,
//   y = Σ_j c_j x_j + D u. The sum in y runs downwards.
// A block has L = 16/S channels of S = 1, 2 or 4 sequences, so that as few numbers as possible of their common table are read
// per step. Tables are [blocks][2N][8][L] with rows a, b, c, h, p, l, v, m, states [blocks][2N][S][L].

enum {
  CK_STATE_SPACE_STEPS = 32, ///< longest stretch of a backward call
  CK_STATE_SPACE_DIAGONAL = 6,
  CK_STATE_SPACE_RANK_ONE = 10,
  CK_STATE_SPACE_SEMISEPARABLE = 16
};

/// One stretch of one sequence, or of some side by side; `*_row` are distances between time steps in floats.
typedef struct {
  size_t steps, channels, states;
  int columns;        ///< K
  int sequences;      ///< S; 1 unless the transition is semiseparable
  ptrdiff_t sequence; ///< distance between sequences in u, y, dy and du
  const float *table; ///< in blocks
  const float *skip;  ///< D, [channels]
  const float *u;     ///< [steps][channels]
  ptrdiff_t u_row;
} ck_state_space_stretch;

/// `x`: the state, on entry and exit. `scratch`: 32·N floats, which only a semiseparable transition needs.
void ck_state_space_forward(const ck_state_space_stretch *in, float *x, float *y, ptrdiff_t y_row, float *scratch);
/// `x`: the state before the stretch. `g`: dL/d(state), after it on entry, before it on exit. `d_table`, summed over sequences,
/// and `d_skip`, [blocks][16], are added to.
void ck_state_space_backward(
    const ck_state_space_stretch *in, const float *x, const float *dy, ptrdiff_t dy_row, float *g, float *du,
    ptrdiff_t du_row, float *d_table, float *d_skip, float *scratch);
/// Floats of a backward pass's `scratch` for N states.
size_t ck_state_space_scratch(size_t states);

// --- One state for all channels: x_t = a x_{t−1} + b_t over lanes, real and imaginary parts in planes.

/// One sequence, `lanes` neighbouring lanes. b and x: [steps], rows `row` floats apart, the imaginary plane `plane` floats
/// after the real one; a and state (on entry and exit): imaginary parts `plane` floats after the real ones.
void ck_complex_scan_forward(const float *a, const float *b, float *state, float *x, size_t steps, size_t lanes, ptrdiff_t plane, ptrdiff_t row);
/// db_t = λ_t = dx_t + ā λ_{t+1}, da += Σ_t λ_t x̄_{t−1}. `state`: x before the first step. `g`: ā λ of the step after on
/// entry, of the first step on exit.
void ck_complex_scan_backward(const float *a, const float *x, const float *state, const float *dx, float *g, float *db, float *da, size_t steps, size_t lanes, ptrdiff_t plane, ptrdiff_t row);
