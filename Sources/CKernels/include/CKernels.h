#pragma once
// Umbrella header: one header per family.
#include "ck_gemm.h"
#include "ck_recurrent.h"
#include "ck_vector.h"
#include "ck_attention.h"
#include "ck_average.h"
#include "ck_delta.h"
#include "ck_mixer.h"
#include "ck_cells.h"
