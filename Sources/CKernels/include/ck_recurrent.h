#pragma once
#include <stddef.h>
#include <stdint.h>

// Point-wise parts of one time step of recurrent cells (torch.nn semantics), for `rows` batch rows and `units` neighbouring
// hidden units. Pointers point at the first unit of the first row; *_row is the distance between rows in floats. Gate g of a
// `gates` operand is `gate` floats after gate g - 1. `product` holds h[t-1] Whhᵀ, [rows][gates][product_gate], and is NULL
// when h[t-1] is zero. A state pointer that is NULL stands for zeros. Every element is computed on its own: a result does
// not depend on how rows and units are cut.

// LSTM, gates i, f, g, o. In: pre-activations in `gates` without the recurrent product. Out: activated gates in place, c, y
// and a second copy of y in `state`.
void ck_lstm_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, const float *product, ptrdiff_t product_gate, float *gates, ptrdiff_t gate,
    ptrdiff_t gates_row, const float *c_previous, ptrdiff_t c_previous_row, float *c, ptrdiff_t c_row, float *y,
    ptrdiff_t y_row, float *state, ptrdiff_t state_row);

// In: activated gates, c[t], c[t-1], dL/dy[t] and `dh`, the part of dL/dh[t] that came back through step t+1; `dc`, dL/dc[t]
// from step t+1. Out: dL/d(pre-activation) in `gates` and a copy in `d_copy` (gates `copy_gate` apart); dL/dc[t-1] in `dc`.
void ck_lstm_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, const float *c,
    ptrdiff_t c_row, const float *c_previous, ptrdiff_t c_previous_row, const float *dy, ptrdiff_t dy_row, const float *dh,
    ptrdiff_t dh_row, float *dc, ptrdiff_t dc_row, float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row);

// GRU, gates r, z, n. In: input parts (with every bias that may be added to them) in `gates`; `bias_n` [units], the recurrent
// bias of n. Out: r, z, n in place, q = h[t-1] Whnᵀ + bias_n, y and a copy of y in `state`.
void ck_gru_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, const float *product, ptrdiff_t product_gate, const float *bias_n,
    float *gates, ptrdiff_t gate, ptrdiff_t gates_row, float *q, ptrdiff_t q_row, const float *h_previous,
    ptrdiff_t h_previous_row, float *y, ptrdiff_t y_row, float *state, ptrdiff_t state_row);

// Out: dL/d(input part) in `gates`; dL/dq in `q`; [dr, dz, dq] in `d_copy`; `dh`: on entry the part of dL/dh[t] from step
// t+1, on exit the part of dL/dh[t-1] that passed by z (the caller adds d_copy Whh).
void ck_gru_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, float *q, ptrdiff_t q_row,
    const float *h_previous, ptrdiff_t h_previous_row, const float *dy, ptrdiff_t dy_row, float *dh, ptrdiff_t dh_row,
    float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row);

// Elman, y = tanh(pre + product), or max(0, ·) when `relu`. `pre` and `y` may be the same memory.
void ck_elman_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int relu, const float *product, ptrdiff_t product_gate, const float *pre,
    ptrdiff_t pre_row, float *y, ptrdiff_t y_row, float *state, ptrdiff_t state_row);

// Out: dL/d(pre-activation) in `d_pre` and a copy in `d_copy`.
void ck_elman_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int relu, const float *y, ptrdiff_t y_row, const float *dy, ptrdiff_t dy_row,
    const float *dh, ptrdiff_t dh_row, float *d_pre, ptrdiff_t d_pre_row, float *d_copy, ptrdiff_t copy_row);

// sLSTM (arXiv 2405.04517), gates i, f, z, o. In: pre-activations in `gates`; c[t-1], n[t-1]; m[t-1] in `m`. Out: i', f', z, o
// in `gates`; m[t] in `m`; y and a copy of it in `state`; c, n and 1 - sigmoid(f) in `cells`, `cell` floats apart. The gates
// `ahead` floats further are fetched meanwhile.
void ck_slstm_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, const float *product, ptrdiff_t product_gate, float *gates, ptrdiff_t gate,
    ptrdiff_t gates_row, ptrdiff_t ahead, const float *c_previous, const float *n_previous, ptrdiff_t previous_row, float *m,
    ptrdiff_t m_row, float *cells, ptrdiff_t cell, ptrdiff_t cells_row, float *y, ptrdiff_t y_row, float *state,
    ptrdiff_t state_row);

// In: what the forward pass left in `gates` and `cells`; `dh`, `dc`, `dn` from step t+1. Out: dL/d(pre-activation) in `gates`
// and a copy in `d_copy`; dL/dc[t-1] and dL/dn[t-1] in `dc` and `dn`.
void ck_slstm_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, ptrdiff_t ahead,
    const float *cells, ptrdiff_t cell, ptrdiff_t cells_row, const float *c_previous, const float *n_previous,
    ptrdiff_t previous_row, const float *dy, ptrdiff_t dy_row, const float *dh, ptrdiff_t dh_row, float *dc, float *dn,
    ptrdiff_t d_row, float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row);

// A micro-layer of a recurrent highway network (arXiv 1607.03474), gates h, t and, unless `coupled`, c: s' = h t + s c, with
// c = 1 - t when coupled. `pre` holds the pre-activations without the recurrent product (it may be `gates`; a row distance of 0
// repeats one row). Out: activated gates in `gates`; s' in `s` and a copy in `state`.
void ck_highway_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int coupled, const float *product, ptrdiff_t product_gate, const float *pre,
    ptrdiff_t pre_row, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, const float *s_previous, ptrdiff_t s_previous_row,
    float *s, ptrdiff_t s_row, float *state, ptrdiff_t state_row);

// `dh`: on entry dL/ds' from later micro-layers, on exit the part of dL/ds that passed by the gates. `dy` is NULL except in the
// last micro-layer of a step.
void ck_highway_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int coupled, float *gates, ptrdiff_t gate, ptrdiff_t gates_row,
    const float *s_previous, ptrdiff_t s_previous_row, const float *dy, ptrdiff_t dy_row, float *dh, ptrdiff_t dh_row,
    float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row);

// Leaky network with a rate per unit, p = pre + product: y = phi((1 - rate) h + rate p), or when `inside`
// (1 - rate) h + rate phi(p). phi: 0 leaky ReLU (slope 0.01), 1 ReLU, 2 tanh, 3 sigmoid. Out: p, or phi(p) when inside, in `pre`.
void ck_leaky_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int inside, int phi, const float *product, ptrdiff_t product_gate, float *pre,
    ptrdiff_t pre_row, const float *rate, const float *h_previous, ptrdiff_t h_previous_row, float *y, ptrdiff_t y_row,
    float *state, ptrdiff_t state_row);

// Out: dL/dp in `pre` and `d_copy`; each step's part of dL/drate in `d_rate`; in `dh` the part of dL/dh[t-1] that did not go
// through p.
void ck_leaky_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int inside, int phi, float *pre, ptrdiff_t pre_row, const float *rate,
    const float *y, ptrdiff_t y_row, const float *h_previous, ptrdiff_t h_previous_row, const float *dy, ptrdiff_t dy_row,
    float *dh, ptrdiff_t dh_row, float *d_rate, ptrdiff_t d_rate_row, float *d_copy, ptrdiff_t copy_row);
