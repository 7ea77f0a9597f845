#include "ck_gemm.h"
