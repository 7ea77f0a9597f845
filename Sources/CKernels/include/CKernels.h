#pragma once
// Umbrella header: one header per family.
#include "ck_gemm.h"
#include "ck_long_convolution.h"
#include "ck_recurrent.h"
#include "ck_rwkv.h"
#include "ck_selective_scan.h"
#include "ck_state_space.h"
#include "ck_vector.h"
#include "ck_attention.h"
#include "ck_channel_memory.h"
#include "ck_matrix_memory.h"
#include "ck_mixer.h"
#include "ck_cells.h"
